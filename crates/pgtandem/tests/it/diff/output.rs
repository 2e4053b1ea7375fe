//! What it prints.

use super::{diff, pair};
use crate::support::Pair;

fn shop() -> Pair {
    let pair = pair("products", "CREATE TABLE products (id int PRIMARY KEY, name text, price numeric, note text)");
    let insert = "INSERT INTO products SELECT i, 'product ' || i, i * 1.5 FROM generate_series(1, 1200) i";
    for node in pair.nodes() {
        node.sql(insert);
    }
    pair["legacy"].sql("UPDATE products SET price = 9.99, note = '<b>sale</b>' WHERE id = 3");
    pair["legacy"].sql("UPDATE products SET price = 4.500 WHERE id = 3000; DELETE FROM products WHERE id IN (7, 8, 9)");
    pair["legacy"].sql("INSERT INTO products VALUES (2000, 'only here', 1)");
    pair
}

#[test]
fn a_person_sees_counts_and_rows_side_by_side() {
    let pair = shop();
    insta::assert_snapshot!(diff(&pair, ["--examples", "2"]).exits(1).stdout, @"");
    pair["legacy"].sql("TRUNCATE products");
    pair["new"].sql("TRUNCATE products");
    insta::assert_snapshot!(diff(&pair, []).ok(), @"");
}

#[test]
fn programs_get_keys_and_csv_and_json() {
    let pair = shop();
    assert_eq!(diff(&pair, ["--keys"]).exits(1).stdout, "3\n7\n8\n9\n2000\n");
    let outcome = diff(&pair, ["--csv"]).exits(1);
    assert_eq!(outcome.stderr, "the table differs\n");
    insta::assert_snapshot!(outcome.stdout, @"");
    insta::assert_snapshot!(diff(&pair, ["--json", "--examples", "1"]).exits(1).stdout, @"");
}

#[test]
fn a_page_holds_it_all_and_nothing_is_taken_for_markup() {
    let pair = shop();
    let file = pair.config().with_file_name("page.html");
    diff(&pair, ["--html", &file.display().to_string()]).exits(1);
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("&#60;b&#62;sale&#60;/b&#62;") && !page.contains("<b>sale"), "{page}");
    assert!(page.contains("product 7") && page.contains("Only on new: 3"), "{page}");
    assert!(!page.contains("http") && !page.contains("postgres:"), "{page}");
}

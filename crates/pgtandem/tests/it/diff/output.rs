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
    pair["legacy"].sql("UPDATE products SET price = 3.000 WHERE id = 2; DELETE FROM products WHERE id IN (7, 8, 9)");
    pair["legacy"].sql("INSERT INTO products VALUES (2000, 'only here', 1)");
    pair
}

#[test]
fn a_person_sees_counts_and_rows_side_by_side() {
    let pair = shop();
    insta::assert_snapshot!(diff(&pair, ["--examples", "2"]).exits(1).stdout, @r"
    products  1,196 equal, 1 different, 3 only on new, 1 only on legacy
      rows: 1,200 on new, 1,198 on legacy

      id=3  different
                new        legacy
         id     3          3
         name   product 3  product 3
      ≠  price  4.5        9.99
      ≠  note   NULL       <b>sale</b>

      only on new
        id  name       price  note
        7   product 7  10.5   NULL
        8   product 8  12.0   NULL
        and 1 more

      only on legacy
        id    name       price  note
        2000  only here  1      NULL

    the table differs
    ");
    pair["legacy"].sql("TRUNCATE products");
    pair["new"].sql("TRUNCATE products");
    insta::assert_snapshot!(diff(&pair, []).ok(), @r"
    products  0 equal
      rows: 0 on new, 0 on legacy

    1 table: the same rows on new and legacy
    ");
}

#[test]
fn programs_get_keys_and_csv_and_json() {
    let pair = shop();
    assert_eq!(diff(&pair, ["--keys"]).exits(1).stdout, "3\n7\n8\n9\n2000\n");
    let outcome = diff(&pair, ["--csv"]).exits(1);
    assert_eq!(outcome.stderr, "the table differs\n");
    insta::assert_snapshot!(outcome.stdout, @r"
    table,key,on,column,new,legacy
    products,3,new legacy,price,4.5,9.99
    products,3,new legacy,note,,<b>sale</b>
    products,7,new,id,7,
    products,7,new,name,product 7,
    products,7,new,price,10.5,
    products,7,new,note,,
    products,8,new,id,8,
    products,8,new,name,product 8,
    products,8,new,price,12.0,
    products,8,new,note,,
    products,9,new,id,9,
    products,9,new,name,product 9,
    products,9,new,price,13.5,
    products,9,new,note,,
    products,2000,legacy,id,,2000
    products,2000,legacy,name,,only here
    products,2000,legacy,price,,1
    products,2000,legacy,note,,
    ");
    let said = diff(&pair, ["--json", "--examples", "1"]).exits(1).stdout;
    let mut json: serde_json::Value = serde_json::from_str(&said).unwrap();
    let table = json["tables"][0].take();
    assert_eq!(json, serde_json::json!({ "equal": false, "nodes": ["new", "legacy"], "tables": [null] }));
    let different = serde_json::json!({
        "key": { "id": "3" },
        "on": ["new", "legacy"],
        "differs": ["price", "note"],
        "rows": {
            "new": { "id": "3", "name": "product 3", "price": "4.5", "note": null },
            "legacy": { "id": "3", "name": "product 3", "price": "9.99", "note": "<b>sale</b>" },
        },
    });
    assert_eq!(table["examples"][0], different);
    assert_eq!(table["examples"].as_array().unwrap().len(), 3, "one of each kind: {table}");
    assert_eq!(table["examples"][1]["rows"]["legacy"], serde_json::Value::Null);
    let fields: Vec<&String> = table.as_object().unwrap().keys().collect();
    let expected = [
        "name",
        "equal",
        "key",
        "columns",
        "not_compared",
        "rows",
        "equal_rows",
        "different",
        "partial",
        "in_flight",
        "unique_clashes",
        "orphans",
        "sequence_overlaps",
        "examples",
    ];
    assert_eq!(fields, expected);
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

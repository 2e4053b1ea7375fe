//! The two Rails applications of `examples/rails`, for real: their pages over HTTP, their migrations, their dumps.
//!
//! The legacy server writes no WAL for decoding, so one side is captured from the WAL and one by triggers.

#[path = "../../examples/demo-rails/browser.rs"]
mod browser;
#[path = "../../examples/demo-rails/shop.rs"]
mod shop;
#[path = "../../examples/demo-rails/visit.rs"]
mod visit;
#[path = "../it/support/wait.rs"]
mod wait;

use std::fs;
use std::path::Path;

use shop::{LEGACY, NEW, Shop, examples};
use wait::{PATIENCE, wait_until};

type Done = Result<(), String>;

#[test]
fn rails_applications_are_linked_and_live_on() {
    let mut shop = Shop::open(env!("CARGO_BIN_EXE_pgtandem").into()).unwrap_or_else(|error| panic!("{error}"));
    if let Err(error) = scenario(&mut shop) {
        panic!("{error}\n{}", shop.logs());
    }
}

fn scenario(shop: &mut Shop) -> Done {
    shop.both(|app| dump(shop, app, "sql", &[]).and_then(|()| keep_dumps(shop, app)))?;
    shop.link()?;
    the_tasks_in_the_repository_are_those_that_init_writes(shop)?;
    visit::both_ways(shop, |_| {})?;
    a_form_that_is_open_while_the_other_application_writes(shop)?;
    features_of_active_record(shop)?;
    visit::compare(shop)?;
    dumps_do_not_show_that_there_is_a_link(shop)?;
    a_migration_on_one_side_then_on_the_other(shop, NEW, "weight")?;
    a_migration_on_one_side_then_on_the_other(shop, LEGACY, "colour")?;
    visit::both_ways(shop, |_| {})?;
    the_link_is_taken_away(shop)
}

fn the_tasks_in_the_repository_are_those_that_init_writes(shop: &Shop) -> Done {
    for (app, name) in [(NEW, "new_app"), (LEGACY, "legacy_app")] {
        let file = "lib/tasks/db_connection.rake";
        let kept = read(&examples().join(name).join(file))?;
        same(&kept, &read(&shop.root(app).join(file))?, &format!("examples/rails/{name}/{file}"))?;
    }
    let config = read(&shop.root(NEW).join("../pgtandem.toml"))?;
    holds(&config, "password='${LEGACY_DATABASE_PASSWORD}'")
}

/// Optimistic locking works across the two: the form was opened before the other side's change came.
fn a_form_that_is_open_while_the_other_application_writes(shop: &Shop) -> Done {
    let [new, legacy] = [shop.browser(NEW)?, shop.browser(LEGACY)?];
    let open = legacy.get("/products/2/edit")?.form()?;
    visit::edit(&new, 2, &[("product[price]", "13.10")])?;
    visit::seen(&legacy, "13.10")?;
    let page = legacy.submit(&open, &[("product[price]", "11.00")])?;
    holds(&page.html, "was changed meanwhile, here or in the other application")?;
    holds(&page.html, "value=\"13.1\"")
}

fn features_of_active_record(shop: &Shop) -> Done {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rails/features.rb");
    shop.both(|app| shop.runner(app, &script, ["new", "legacy"][app])?.ok().map(drop))?;
    equal(shop)?;
    for (from, there) in [("new", LEGACY), ("legacy", NEW)] {
        let hammer = format!("SELECT price, status, lock_version FROM products WHERE name = '{from} hammer'");
        same("11.00|2|4", &shop.sql(there, &hammer)?, &hammer)?;
        // 3 tools, 50 in bulk and one more, one outside the rolled back transaction; 9 and the saw are gone.
        let count = format!("SELECT count(*) FROM products WHERE name LIKE '{from} %'");
        same("45", &shop.sql(there, &count)?, &count)?;
        let tools = format!("SELECT products_count FROM categories WHERE name = '{from} tools'");
        same("1", &shop.sql(there, &tools)?, &tools)?;
    }
    // What upsert_all left to its default, and what only legacy has.
    let own = "SELECT DISTINCT taxable, warehouse_code IS NULL FROM products WHERE name LIKE 'new %'";
    same("t|t", &shop.sql(LEGACY, own)?, own)
}

/// Nor do the databases that tests get, which are purged and loaded from a dump in either format.
fn dumps_do_not_show_that_there_is_a_link(shop: &Shop) -> Done {
    shop.both(|app| {
        dump(shop, app, "ruby", &["db:test:prepare"])?;
        test_database_is_plain(shop, app)?;
        dump(shop, app, "sql", &["db:test:prepare"])?;
        test_database_is_plain(shop, app)
    })?;
    for app in [NEW, LEGACY] {
        for file in ["schema.rb", "structure.sql"] {
            same_dump(shop, app, file)?;
        }
    }
    Ok(())
}

fn test_database_is_plain(shop: &Shop, app: usize) -> Done {
    let tables = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
                  WHERE relkind IN ('r', 'f') AND relnamespace = 'public'::regnamespace";
    let database = ["new_app_test", "legacy_app_test"][app];
    let found = shop.sql_in(app, database, tables)?;
    same("ar_internal_metadata categories products schema_migrations", &found, "the test database's tables")?;
    let ours = "SELECT (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)
                       + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgtandem%')
                       + (SELECT count(*) FROM pg_extension WHERE extname = 'postgres_fdw')";
    same("0", &shop.sql_in(app, database, ours)?, ours)
}

/// The table is paused while only one side has the column, and goes on by itself.
fn a_migration_on_one_side_then_on_the_other(shop: &Shop, first: usize, column: &str) -> Done {
    let other = 1 - first;
    let name = format!("Add{}{}ToProducts", column[..1].to_uppercase(), &column[1..]);
    let migration = format!(
        "class {name} < ActiveRecord::Migration[6.1]\n  def change\n    add_column :products, :{column}, :string\n  end\nend\n"
    );
    // After all that are there, and in order.
    let version = 20260201090000 + u64::try_from(first).unwrap_or_default();
    for app in [first, other] {
        let file = shop.root(app).join(format!("db/migrate/{version}_add_{column}_to_products.rb"));
        fs::write(&file, &migration).map_err(|error| error.to_string())?;
    }
    shop.rake(first, &["db:migrate"])?.ok()?;
    shop.sql(first, &format!("UPDATE products SET {column} = 'much' WHERE id = 3"))?;
    let paused = "SELECT paused_by || ' ' || pause_reason FROM pgtandem.linked_table WHERE table_name = 'products'";
    wait_until("products is paused", PATIENCE, || {
        let said = shop.sql(other, paused).unwrap_or_default();
        said.starts_with("drift") && said.contains(column)
    });
    // Applications go on writing meanwhile.
    visit::edit(&shop.browser(other)?, 5, &[("product[description]", &format!("before {column}"))])?;
    shop.rake(other, &["db:migrate"])?.ok()?;
    let arrived = format!("SELECT {column} FROM products WHERE id = 3");
    wait_until("products goes on", PATIENCE, || shop.sql(other, &arrived).is_ok_and(|found| found == "much"));
    equal(shop)?;
    let schema = read(&shop.root(first).join("db/schema.rb"))?;
    holds(&schema, &format!("t.string \"{column}\""))?;
    let conflicts = shop.sql(NEW, "SELECT count(*) FROM pgtandem.decision")?;
    same("0", &conflicts, "conflicts")
}

fn the_link_is_taken_away(shop: &mut Shop) -> Done {
    shop.stop_hub();
    shop.both(|app| {
        let peer = ["legacy", "new"][app];
        shop.rake(
            app,
            &[&format!("db_connection:{peer}_products:drop_foreign_table"), "db_connection:remote_server:destroy"],
        )?
        .ok()
        .map(drop)
    })?;
    let said = shop.rake(LEGACY, &["db_connection:destroy", "db_connection:products_sequence:show"])?.ok()?;
    holds(&said, "new: nothing left")?;
    holds(&said, "legacy: nothing left")?;
    for app in [NEW, LEGACY] {
        let left = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal";
        same("0", &shop.sql(app, left)?, left)?;
        let schema = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgtandem%')
                             + (SELECT count(*) FROM pg_foreign_server)
                             + (SELECT count(*) FROM pg_extension WHERE extname = 'postgres_fdw')";
        same("0", &shop.sql(app, schema)?, schema)?;
        visit::create(&shop.browser(app)?, "After the link", "1")?;
    }
    Ok(())
}

/// Both sides have the same rows, in the columns that both have.
fn equal(shop: &Shop) -> Done {
    let products = "SELECT id, name, description, price, status, lock_version, category_id, created_at, updated_at
                    FROM products ORDER BY id";
    let categories = "SELECT id, name, products_count, created_at, updated_at FROM categories ORDER BY id";
    let mut last = Ok(());
    let equal = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until("both sides are equal", PATIENCE, || {
            last = [products, categories].into_iter().try_for_each(|query| {
                let [new, legacy] = [shop.sql(NEW, query)?, shop.sql(LEGACY, query)?];
                same(&new, &legacy, query)
            });
            last.is_ok()
        });
    }));
    equal.map_err(|_| last.unwrap_err())
}

fn dump(shop: &Shop, app: usize, format: &str, more: &[&str]) -> Done {
    let tasks = [&["db:schema:dump"], more].concat();
    shop.rake_with(app, &tasks, &[("SCHEMA_FORMAT", format)])?.ok().map(drop)
}

/// schema.rb as `db:migrate` has written it, and structure.sql.
fn keep_dumps(shop: &Shop, app: usize) -> Done {
    for file in ["schema.rb", "structure.sql"] {
        let db = shop.root(app).join("db");
        fs::copy(db.join(file), db.join(format!("before_{file}"))).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(())
}

fn same_dump(shop: &Shop, app: usize, file: &str) -> Done {
    let db = shop.root(app).join("db");
    // Minor releases of pg_dump write a key that is random.
    let plain = |text: String| text.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n");
    let [before, now] = [format!("before_{file}"), file.to_owned()].map(|name| read(&db.join(name)).map(plain));
    same(&before?, &now?, &format!("{file} of {}", ["new", "legacy"][app]))
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

fn same(expected: &str, found: &str, what: &str) -> Done {
    if expected == found {
        return Ok(());
    }
    let lines = |text: &str, other: &str| -> String {
        text.lines()
            .filter(|line| !other.lines().any(|there| there == *line))
            .map(|line| format!("  {line}\n"))
            .collect()
    };
    Err(format!(
        "{what}\nexpected, not found:\n{}found, not expected:\n{}",
        lines(expected, found),
        lines(found, expected)
    ))
}

fn holds(text: &str, part: &str) -> Done {
    if text.contains(part) { Ok(()) } else { Err(format!("`{part}` is not in:\n{text}")) }
}

//! Direct mode and the row triggers that people write by hand for it: what the application's transactions take, on the same
//! two servers, in turns. No hub runs.

use std::time::Instant;

use pgtandem::cluster::Stop;

use crate::by_hand;
use crate::figures::{Bound, Compared, Series};
use crate::pair::{Content, Pair};
use crate::report::Report;
use crate::sql::Sql;
use crate::system::System;
use crate::tandem::Tandem;
use crate::writer::Writer;

const TABLE: &str = "products";
/// The same without any trigger.
const UNLINKED: &str = "unlinked";
const ROWS: u32 = 20_000;
const CLIENTS: [&str; 2] = ["1", "4"];
/// Each with a table that is linked and one that is not, while the other server is away.
const INSERTS_ALONE: usize = 3;

const COLUMNS: &str = "(id bigserial PRIMARY KEY, name text, description text, price numeric(10,2), \
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now())";
const INSERT: &str =
    "INSERT INTO products (name, description, price) VALUES ('a product', 'of some use to some', 12.34);\n";

#[derive(Default)]
struct Results {
    single: [Compared; 2],
    many: Compared,
    alone: Compared,
}

pub fn run(pair: &Pair, report: &mut Report, repeats: usize, seconds: u32) {
    println!("\ndirect mode and triggers made by hand (here: native), {seconds} s each and one INSERT of {ROWS} rows");
    let mut results = Results::default();
    for _ in 0..repeats {
        for system in System::BOTH {
            once(pair, system, seconds, &mut results);
        }
    }
    let Results { single: [one, four], many, alone } = &results;
    let what =
        |clients| format!("one INSERT per transaction, {clients}, by hand (under native) and direct, transactions/s");
    report.compare(&what("1 client"), 0, one, Some(Bound::at_least(1.2, 1.5)));
    report.compare(&what("4 clients"), 0, four, Some(Bound::at_least(1.2, 2.0)));
    let what = format!("one INSERT of {ROWS} rows, by hand (under native) and direct, rows/s");
    report.compare(&what, 0, many, Some(Bound::at_least(20.0, 50.0)));
    let what =
        format!("one INSERT of {ROWS} rows, without triggers (under native) and direct with the peer away, rows/s");
    report.compare(&what, 0, alone, Some(Bound::at_least(0.5, 0.7)));
}

fn once(pair: &Pair, system: System, seconds: u32, results: &mut Results) {
    let database = system.database();
    pair.create_databases(database, Content::Nothing);
    for cluster in pair.clusters() {
        Sql::connect(cluster, database)
            .run(&format!("CREATE TABLE {TABLE} {COLUMNS}; CREATE TABLE {UNLINKED} {COLUMNS}"));
    }
    let tandem = match system {
        System::Native => {
            by_hand::link(pair, database);
            None
        }
        System::Tandem => Some(Tandem::link_directly(pair, database, &[TABLE])),
    };
    let script = pair.write_file("direct.pgbench", INSERT).display().to_string();
    let seconds = seconds.to_string();
    let rates = CLIENTS.map(|clients| {
        let args = ["-n", "-c", clients, "-j", clients, "-T", &seconds, "-f", &script];
        Writer::start(pair, &pair.source, database, &args).finish()
    });
    let source = Sql::connect(&pair.source, database);
    let many = match &tandem {
        None => insert_many(&source, TABLE),
        Some(tandem) => insert_many_until_there(&source, tandem),
    };
    println!("  {system}: {:.0}/s, {:.0}/s with 4 clients, {many:.0} rows/s", rates[0], rates[1]);
    for (series, rate) in results.single.iter_mut().zip(rates) {
        series.of(system).push(rate);
    }
    results.many.of(system).push(many);
    check_equal(pair, system);
    if let Some(tandem) = tandem {
        peer_away(pair, &tandem, &source, &mut results.alone);
        check_equal(pair, system);
    }
    drop(source);
    pair.drop_databases(database);
}

/// The first one finds out; the others know.
fn peer_away(pair: &Pair, tandem: &Tandem, source: &Sql, alone: &mut Compared) {
    pair.target.stop(Stop::Fast).unwrap_or_else(|e| panic!("{e}"));
    source.run(INSERT);
    let (mut without, mut with) = (Series::default(), Series::default());
    for _ in 0..INSERTS_ALONE {
        without.push(insert_many(source, UNLINKED));
        with.push(insert_many(source, TABLE));
    }
    println!("  the peer away: {:.0} rows/s, without triggers {:.0}", with.median(), without.median());
    alone.native.push(without.median());
    alone.tandem.push(with.median());
    pair.target.start_again().unwrap_or_else(|e| panic!("{e}"));
    tandem.run_once();
}

/// What a server that is too busy does not take at COMMIT is delivered behind it; that counts, too.
fn insert_many_until_there(source: &Sql, tandem: &Tandem) -> f64 {
    const WAITS: &str = "SELECT EXISTS (SELECT FROM pgtandem.queued)";
    let waits = || source.field::<bool>(WAITS) == Some(true);
    if waits() {
        println!("  single rows were not taken at COMMIT, and are delivered now");
        tandem.run_once();
    }
    let began = Instant::now();
    let rate = insert_many(source, TABLE);
    if !waits() {
        return rate;
    }
    println!("  the INSERT of {ROWS} rows was not taken at COMMIT, and is delivered now");
    tandem.run_once();
    f64::from(ROWS) / began.elapsed().as_secs_f64()
}

/// Rows per second.
fn insert_many(source: &Sql, table: &str) -> f64 {
    let began = Instant::now();
    source.run(&format!(
        "INSERT INTO {table} (name, description, price) \
         SELECT 'product ' || i, 'of some use to some', i % 100 FROM generate_series(1, {ROWS}) AS i"
    ));
    f64::from(ROWS) / began.elapsed().as_secs_f64()
}

fn check_equal(pair: &Pair, system: System) {
    if let Some(difference) = pair.difference(system.database(), &[TABLE]) {
        panic!("WRONG RESULT: {system}: {difference}");
    }
}

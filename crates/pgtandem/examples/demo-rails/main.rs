//! The two Rails applications of `examples/rails` on this machine, linked: `make demo-rails`.
//!
//! Without arguments they run until Ctrl-C, for a person with a browser; with `--check` products are made, changed and
//! deleted in the pages of both, and seen in the other's.

mod browser;
mod shop;
mod visit;
#[path = "../../tests/it/support/wait.rs"]
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use shop::{LEGACY, NEW, Shop};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let is_check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(_) => {
            eprintln!("usage: demo-rails [--check]");
            return ExitCode::from(2);
        }
    };
    match show(is_check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}

fn show(is_check: bool) -> Result<(), String> {
    // Before anything is started: so that Ctrl-C at any time removes all of it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let mut stop = runtime
        .block_on(async { Some((signal(SignalKind::interrupt()).ok()?, signal(SignalKind::terminate()).ok()?)) });
    let stop = stop.as_mut().ok_or("signals cannot be caught")?;
    println!("Rails {}, two PostgreSQL servers of our own, both applications", shop::rails_version()?);
    let mut shop = Shop::open(pgtandem()?)?;
    println!("pgtandem init --rails new_app --rails legacy_app; rake db_connection:create; pgtandem run");
    if let Err(error) = shop.link() {
        return Err(format!("{error}\n{}", shop.logs()));
    }
    if is_check {
        let done = visit::both_ways(&shop, |step| println!("  {step}")).and_then(|()| visit::compare(&shop));
        done.map_err(|error| format!("{error}\n{}", shop.logs()))?;
        println!("the comparison pages of both find no difference");
        return Ok(());
    }
    println!("\n  new      {}\n  legacy   {}\n", shop.url(NEW)?, shop.url(LEGACY)?);
    println!("Change products on either side, and look at \"Both sides\". Ctrl-C ends and removes everything.");
    runtime.block_on(async {
        tokio::select! { _ = stop.0.recv() => {} _ = stop.1.recv() => {} }
    });
    println!("\nstopping");
    Ok(())
}

/// The program beside which this one was built.
fn pgtandem() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let built = own.parent().and_then(|examples| examples.parent()).map(|target| target.join("pgtandem"));
    built.filter(|file| file.exists()).ok_or_else(|| "build pgtandem first: make demo-rails does".to_owned())
}

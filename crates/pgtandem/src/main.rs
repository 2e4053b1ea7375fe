//! The `pgtandem` command.

use std::path::PathBuf;

fn main() {
    tracing_subscriber::fmt().with_env_filter("info").with_writer(std::io::stderr).init();
    let file = PathBuf::from(std::env::args().nth(1).unwrap());
    let env = pgtandem::connect::Environment::of_process();
    let config = pgtandem::config::Config::load(&file, &env).unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tx, rx) = tokio::sync::watch::channel(false);
    rt.spawn(async move {
        tokio::signal::ctrl_c().await.unwrap();
        tx.send(true).unwrap();
    });
    println!("{:?}", rt.block_on(pgtandem::daemon::run(&config, rx)));
}

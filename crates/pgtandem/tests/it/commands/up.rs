//! `pgtandem up` and `down` ask; without a terminal they refuse.

use crate::support::{PRODUCTS, Pair, Setup};
use std::io::Write;
use std::process::{Command, Stdio};

const INSTALLED: &str = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgtandem'";

/// Runs it on a terminal of its own, types the answer, and returns the exit code and what the terminal showed. None
/// where util-linux's `script`, which makes the terminal, is not installed.
fn answered(pair: &Pair, command: &str, answer: &str) -> Option<(i32, String)> {
    let script = "/usr/bin/script";
    if !std::fs::exists(script).unwrap_or(false) {
        eprintln!("not run: {script} is not installed");
        return None;
    }
    let line = format!("{} -c {} {command}", env!("CARGO_BIN_EXE_pgtandem"), pair.config().display());
    let mut child = Command::new(script)
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept open: its end would end the terminal.
    let mut keyboard = child.stdin.take().unwrap();
    writeln!(keyboard, "{answer}").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(keyboard);
    Some((output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[test]
fn up_and_down_ask_and_refuse_where_nobody_can_be_asked() {
    let pair = Pair::with(Setup::shared().table("products", PRODUCTS));
    let refused = pair.pgtandem(["up"]).exits(2);
    assert!(refused.stdout.contains("new: make the schema pgtandem"), "{}", refused.stdout);
    assert!(refused.stderr.contains("there is no terminal") && refused.stderr.contains("--yes"), "{}", refused.stderr);
    assert_eq!(pair["new"].sql(INSTALLED), "0");

    let Some((code, shown)) = answered(&pair, "up", "n") else { return };
    assert!(code == 0 && shown.contains("Do this? [y/N]") && shown.contains("nothing was done"), "{code}: {shown}");
    assert_eq!(pair["new"].sql(INSTALLED), "0");
    let (code, shown) = answered(&pair, "up", "").unwrap();
    assert!(code == 0 && shown.contains("nothing was done"), "Enter is no: {code}: {shown}");
    let (code, shown) = answered(&pair, "up", "y").unwrap();
    assert!(code == 0 && shown.contains("linked."), "{code}: {shown}");
    assert_eq!(pair["new"].sql(INSTALLED), "1");

    let refused = pair.pgtandem(["down"]).exits(2);
    assert!(refused.stderr.contains("there is no terminal"), "{}", refused.stderr);
    let (code, shown) = answered(&pair, "down", "no").unwrap();
    assert!(code == 0 && shown.contains("nothing was done"), "{code}: {shown}");
    assert_eq!(pair["new"].sql(INSTALLED), "1");
    let (code, shown) = answered(&pair, "down", "yes").unwrap();
    assert!(code == 0 && shown.contains("nothing left."), "{code}: {shown}");
    assert_eq!(pair["new"].sql(INSTALLED), "0");
}

//! A command line or a configuration that is wrong: exit code 2, nothing on standard output.

use super::{NOWHERE, config, pgtandem};
use std::fs;

#[track_caller]
fn refused(args: &[&str]) -> String {
    let (code, stdout, stderr) = pgtandem(&config(NOWHERE), args);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    stderr
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["diff", "run", "status", "conflicts", "pause", "resume"] {
        let (code, stdout, stderr) = pgtandem(&dir, &[command]);
        assert_eq!((code, stdout.as_str()), (2, ""));
        insta::allow_duplicates! {
            insta::assert_snapshot!(stderr, @r"
            error: there is no such file
              --> pgtandem.toml
               = help: make it with `pgtandem init NAME=URL NAME=URL`, or say where it is with -c FILE or PGTANDEM_CONFIG

            pgtandem.toml: 1 fault, nothing was done
            ");
        }
    }
}

#[test]
fn values_that_mean_nothing_are_refused_with_what_would() {
    insta::assert_snapshot!(refused(&["conflicts", "--since", "lately"]), @r"
    error: invalid value 'lately' for '--since <WHEN>': write how long ago (10min, 2h, 1 day) or a time (2026-10-17 05:30, with or without zone)

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["pause", "a.b.c"]), @r"
    error: invalid value 'a.b.c' for '[TABLE]': `a.b.c` has 3 parts; write schema.table; the database is named in the node's url

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["run", "--log-level", "loud"]), @r"
    error: invalid value 'loud' for '--log-level <LEVEL>': a level is error, warn, info, debug, trace or off

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(refused(&["status", "--watch"]), @r"
    error: --watch draws on a terminal, and there is none
      try: add --json, or leave --watch
    ");
}

#[test]
fn diff_refuses_what_it_cannot_do_before_it_connects() {
    insta::assert_snapshot!(refused(&["diff", "orders"]), @r"
    error: orders is not in the configuration
      try: one of: products
    ");
    insta::assert_snapshot!(refused(&["diff", "--max-load", "7"]), @r"
    error: invalid value '7' for '--max-load <SHARE>': write a share between 0.01 and 1

    For more information, try '--help'.
    ");
    assert!(refused(&["diff", "--json", "--csv"]).contains("'--json' cannot be used with '--csv'"));
    let two = config(&format!("{NOWHERE}[[tables]]\nname = \"orders\"\n"));
    let (code, stdout, stderr) = pgtandem(&two, &["diff", "--keys"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    insta::assert_snapshot!(stderr, @r"
    error: --keys prints the keys of one table
      try: name one of: products, orders
    ");
    fs::write(two.path().join("state"), "nothing").unwrap();
    let (code, _, stderr) = pgtandem(&two, &["diff", "--resume", "state"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!(stderr, @r"
    error: state is not what a comparison has left behind
      try: name another file, or remove state to begin anew
    ");
}

#[test]
fn init_refuses_a_name_that_is_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = pgtandem(&dir, &["init", "new=host=a", "legacy=host=b", "new=host=c"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    insta::assert_snapshot!(stderr, @r"
    error: two nodes are named new
      try: give each its own name: new=… legacy=…
    ");
    assert!(!dir.path().join("pgtandem.toml").exists());
}

/// A program that reads nothing and an exit code of 0 would be a lie.
#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_a_failure() {
    let dir = config(NOWHERE);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pgtandem"));
    let output = command.arg("check").current_dir(dir.path()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("error: cannot write to standard output: No space left"), "{said}");
    assert_eq!(said.matches("cannot write").count(), 1, "{said}");
}

#[test]
fn help_teaches_the_way_and_the_exit_codes() {
    let (code, stdout, _) = pgtandem(&config(NOWHERE), &["--help"]);
    assert_eq!(code, 0);
    for line in ["From nothing to a link:", "Exit codes:", "  2  the command line or the configuration is wrong"] {
        assert!(stdout.lines().any(|found| found == line), "{line} is not in\n{stdout}");
    }
    let (_, stdout, _) = pgtandem(&config(NOWHERE), &["init", "--help"]);
    assert!(stdout.contains("pgtandem init new='${NEW_URL}' legacy="), "{stdout}");
}

#[test]
fn help_lists_every_command() {
    let (code, stdout, _) = pgtandem(&config(NOWHERE), &["--help"]);
    assert_eq!(code, 0);
    let commands: Vec<&str> = stdout
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let expected = [
        "init",
        "check",
        "plan",
        "up",
        "diff",
        "verify",
        "repair",
        "rejoin",
        "run",
        "status",
        "conflicts",
        "renumbered",
        "undo",
        "pause",
        "resume",
        "down",
        "demo",
        "help",
    ];
    assert_eq!(commands, expected, "{stdout}");
}

#[test]
fn init_reads_rails_applications_and_reports_what_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let apps = [("new_app", "password: <%= Rails.application.secret %>"), ("legacy_app", "<% if x %>")];
    for (app, line) in apps {
        fs::create_dir_all(dir.path().join(app).join("config")).unwrap();
        let yml = format!("development:\n  adapter: postgresql\n  database: shop\n  host: 127.0.0.1\n  {line}\n");
        fs::write(dir.path().join(app).join("config/database.yml"), yml).unwrap();
    }
    let (code, stdout, stderr) = pgtandem(&dir, &["init", "--rails", "new_app", "--rails", "legacy_app"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    insta::assert_snapshot!(stderr, @r"
    error: new_app/config/database.yml:5: the password is what Ruby makes of `Rails.application.secret`; it is not evaluated
      → set NEW_DATABASE_PASSWORD to it
    legacy_app/config/database.yml:5: `<% if x %>` is Ruby that decides what the file says
      → name the databases as NAME=URL in place of --rails
    ");
    let (code, _, stderr) = pgtandem(&dir, &["init", "--rails", "elsewhere", "new=host=a"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!(stderr, @r"
    error: elsewhere/config/database.yml: cannot be read: No such file or directory (os error 2)
      → --rails takes the directory of a Rails application
    ");
    fs::write(dir.path().join("new_app/config/database.yml"), "development:\n  database: shop\n").unwrap();
    let (code, _, stderr) = pgtandem(&dir, &["init", "--rails", "new_app"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!(stderr, @r"
    error: new_app is one database; where is the other?
      try: add --rails PATH or NAME=URL, or set LEGACY_DATABASE_NAME, with LEGACY_DATABASE_HOST, _PORT, _USER and _PASSWORD
    ");
    let (code, _, stderr) = pgtandem(&dir, &["init", "new=host=a"]);
    assert_eq!(code, 2);
    insta::assert_snapshot!(stderr, @r"
    error: a link takes two databases or more
      try: pgtandem init new=postgres://… legacy=postgres://…, or --rails PATH --rails PATH; see --help
    ");
    assert!(!dir.path().join("pgtandem.toml").exists());
}

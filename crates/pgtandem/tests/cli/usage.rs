//! A command line or a configuration that is wrong: exit code 2, nothing on standard output.

use super::{NOWHERE, config, pgtandem};

#[track_caller]
fn refused(args: &[&str]) -> String {
    let (code, stdout, stderr) = pgtandem(&config(NOWHERE), args);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    stderr
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["run", "status", "conflicts", "pause", "resume"] {
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
    let expected =
        ["init", "check", "plan", "up", "run", "status", "conflicts", "pause", "resume", "down", "demo", "help"];
    assert_eq!(commands, expected, "{stdout}");
}

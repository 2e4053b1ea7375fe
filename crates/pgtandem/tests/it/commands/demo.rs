//! `pgtandem demo`, to its end.

use std::process::Command;

#[test]
fn the_demo_ends_with_equal_sides_and_leaves_nothing() {
    let temporary = tempfile::Builder::new().prefix("demo").tempdir_in("/tmp").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(temporary.path(), open).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_pgtandem")).arg("demo").env("TMPDIR", temporary.path()).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    assert!(text.contains("legacy won over new (resolve = newest): committed later"), "{text}");
    assert!(text.contains("conflicts: 1 decided on purpose") && text.contains("held keys: none"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("equal: all "), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

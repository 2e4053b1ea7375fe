//! The directory that holds everything of one server, and the promise that it does not outlive
//! us: a watchdog ends the server and removes the directory when we die without doing so, and
//! what a crash of the whole machine left is removed by the next run.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Once;

use nix::fcntl::{Flock, FlockArg};

use super::account::Account;
use super::error::{ClusterError, Result};

const PREFIX: &str = "pgtandem-";
/// Locked as long as the process that made the directory lives. A lock, not a process id:
/// process ids are used again.
const OWNER: &str = "owner";
/// Present in a directory that is to stay when its maker is gone.
const KEPT: &str = "kept";
/// A socket's path has at most 107 bytes, `/.s.PGSQL.12345` included (103 on macOS).
const LONGEST_DIR: usize = 85;

#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    account: Account,
    watchdog: Option<Child>,
    _owner: Flock<File>,
}

impl Home {
    pub fn create(account: &Account) -> Result<Home> {
        static SWEPT: Once = Once::new();
        let parent = parent_dir(account);
        SWEPT.call_once(|| sweep(&parent, account));

        let path = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&parent)
            .map_err(|e| ClusterError::io("create a directory in", &parent, e))?
            .keep();
        // Ours and the server's alone: whoever reaches the socket is let in without a password.
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(&path, private).map_err(|e| ClusterError::io("protect", &path, e))?;
        account.give(&path)?;
        let owner = lock_as_owner(&path)?;
        let watchdog = account
            .command("/bin/sh", Path::new("/"))
            .args(["-c", include_str!("watchdog.sh"), "pgtandem-watchdog"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| ClusterError::io("run", Path::new("/bin/sh"), e))?;
        Ok(Home { path, account: account.clone(), watchdog: Some(watchdog), _owner: owner })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file below the directory that the server's user owns and nobody else may read.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| ClusterError::io("create", &path, e))?;
        file.write_all(text.as_bytes()).map_err(|e| ClusterError::io("write", &path, e))?;
        self.account.give(&path)?;
        Ok(path)
    }

    /// From now on the directory, and the server in it, outlive us.
    pub fn keep(&mut self) -> Result<()> {
        self.write(KEPT, "kept on request; remove this directory when done\n")?;
        self.dismiss_watchdog();
        Ok(())
    }

    fn dismiss_watchdog(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            if let Some(mut pipe) = watchdog.stdin.take() {
                // It can only fail when somebody ended the watchdog: nothing to dismiss then.
                let _ = pipe.write_all(b"leave\n");
            }
            let _ = watchdog.wait();
        }
    }
}

/// The server must have stopped before.
impl Drop for Home {
    fn drop(&mut self) {
        if self.watchdog.is_none() {
            return;
        }
        self.dismiss_watchdog();
        if let Err(e) = fs::remove_dir_all(&self.path) {
            tracing::warn!("remove {}: {e}", self.path.display());
        }
    }
}

/// `TMPDIR`, unless sockets below it would have too long a path or the server's user cannot
/// come there.
fn parent_dir(account: &Account) -> PathBuf {
    let temp = std::env::temp_dir();
    let short = temp.as_os_str().len() + PREFIX.len() + 6 <= LONGEST_DIR;
    let open = |dir: &Path| fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
    if short && (!account.lent() || temp.ancestors().all(open)) { temp } else { PathBuf::from("/tmp") }
}

/// The file gets its name only when it is locked, so no sweep ever sees it unlocked.
fn lock_as_owner(dir: &Path) -> Result<Flock<File>> {
    let unnamed = dir.join("owner.new");
    let named = dir.join(OWNER);
    let file = File::create(&unnamed).map_err(|e| ClusterError::io("create", &unnamed, e))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, e)| ClusterError::io("lock", &unnamed, e.into()))?;
    fs::rename(&unnamed, &named).map_err(|e| ClusterError::io("rename", &unnamed, e))?;
    Ok(lock)
}

/// Removes what earlier runs left. Nothing here may fail the start of a server: a directory that
/// cannot be removed stays.
fn sweep(parent: &Path, account: &Account) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&entry.path(), account) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(dir: &Path, account: &Account) -> bool {
    // A stranger's directory of that name, or a symbolic link, is none of ours.
    let ours = |m: fs::Metadata| m.is_dir() && m.uid() == account.uid;
    if !fs::symlink_metadata(dir).is_ok_and(ours) || dir.join(KEPT).exists() {
        return false;
    }
    let Ok(owner) = File::open(dir.join(OWNER)) else {
        return false;
    };
    Flock::lock(owner, FlockArg::LockExclusiveNonblock).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_whose_maker_is_gone_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let account = Account::for_servers().unwrap();
        let make = |name: &str| {
            let dir = parent.path().join(name);
            fs::create_dir(&dir).unwrap();
            account.give(&dir).unwrap();
            dir
        };
        let abandoned = make("pgtandem-abandoned");
        drop(lock_as_owner(&abandoned).unwrap());
        let living = make("pgtandem-living");
        let _lock = lock_as_owner(&living).unwrap();
        let kept = make("pgtandem-kept");
        drop(lock_as_owner(&kept).unwrap());
        fs::write(kept.join(KEPT), "").unwrap();
        let unrelated = make("pgtandem-unrelated");

        sweep(parent.path(), &account);

        assert!(!abandoned.exists());
        for stays in [living, kept, unrelated] {
            assert!(stays.exists(), "{}", stays.display());
        }
    }
}

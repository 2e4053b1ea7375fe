//! As whom the servers run. PostgreSQL refuses to run as root, so root lends them another user.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use super::error::{ClusterError, Result};

#[derive(Debug, Clone)]
pub(super) struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Whether that is somebody else than we are.
    lent: bool,
}

impl Account {
    /// Ourselves; as root `postgres`, else `nobody`.
    pub fn for_servers() -> Result<Account> {
        let us = Uid::effective();
        let user = if us.is_root() {
            let by_name = |name| User::from_name(name).ok().flatten();
            by_name("postgres").or_else(|| by_name("nobody")).ok_or(ClusterError::NoServerUser)?
        } else {
            // A uid without a passwd entry (some containers) is initdb's to complain about.
            return Ok(Account {
                name: User::from_uid(us).ok().flatten().map_or_else(|| us.to_string(), |user| user.name),
                uid: us.as_raw(),
                gid: nix::unistd::Gid::effective().as_raw(),
                lent: false,
            });
        };
        Ok(Account { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), lent: true })
    }

    pub fn lent(&self) -> bool {
        self.lent
    }

    /// A command run as this user in `dir`, in a process group of its own, so that Ctrl-C in
    /// our terminal reaches us alone and we decide in which order things end.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(dir).process_group(0);
        if self.lent {
            // Supplementary groups are dropped by the standard library when root sets a uid.
            command.uid(self.uid).gid(self.gid);
            command.env("HOME", dir).env("USER", &self.name);
        }
        // What belongs to the caller's own servers must not reach ours.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env_remove("LANG").env("LC_ALL", "C");
        command
    }

    pub fn give(&self, path: &Path) -> Result<()> {
        if self.lent {
            chown(path, Some(self.uid), Some(self.gid))
                .map_err(|e| ClusterError::io("change the owner of", path, e))?;
        }
        Ok(())
    }
}

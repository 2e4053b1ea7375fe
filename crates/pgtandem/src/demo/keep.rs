//! `demo --keep`: servers and hub outlive the demo, so that a person can play.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::NODES;
use super::error::DemoError;
use crate::cluster::Cluster;

/// What is left running.
#[derive(Debug)]
pub struct Kept {
    /// Name and URL.
    pub nodes: Vec<(&'static str, String)>,
    pub config: PathBuf,
    pub log: PathBuf,
    /// Ends and removes everything.
    pub stop: PathBuf,
}

/// `pgtandem run` as a process of its own, which does not end with us.
pub(super) fn start_hub(dir: &Path) -> Result<u32, DemoError> {
    let file = File::options().append(true).create(true).open(dir.join("hub.log"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--config").arg(dir.join("pgtandem.toml")).arg("run").current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    Ok(command.spawn()?.id())
}

pub(super) fn keep(hub: u32, clusters: Vec<Cluster>, dir: TempDir) -> Result<Kept, DemoError> {
    let path = dir.path();
    let (config, log, stop) = (path.join("pgtandem.toml"), path.join("hub.log"), path.join("stop"));
    let nodes = clusters.iter().zip(NODES).map(|(cluster, (name, database))| (name, cluster.url(database))).collect();
    let servers: Vec<PathBuf> = clusters.into_iter().map(Cluster::keep).collect::<Result<_, _>>()?;
    fs::write(&stop, stop_script(hub, &config, &servers, path))?;
    fs::set_permissions(&stop, fs::Permissions::from_mode(0o700))?;
    let _ = dir.keep();
    Ok(Kept { nodes, config, log, stop })
}

/// Process ids are used again: each is ended only if it still is what it was.
fn stop_script(hub: u32, config: &Path, servers: &[PathBuf], dir: &Path) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("'{}'", server.display())).collect();
    format!(
        "#!/bin/sh
# Ends what `pgtandem demo --keep` left running, and removes it.
end() {{ # signal, process, what its command line holds
    case \"$(ps -o args= -p \"$2\" 2>/dev/null)\" in *\"$3\"*) kill \"-$1\" \"$2\" ;; *) return ;; esac
    while kill -0 \"$2\" 2>/dev/null; do sleep 0.1; done
}}
end TERM {hub} '{config}'
for server in {servers}; do
    end INT \"$(head -n 1 \"$server/data/postmaster.pid\" 2>/dev/null)\" \"$server\"
    rm -rf \"$server\"
done
rm -rf '{dir}'
",
        config = config.display(),
        servers = servers.join(" "),
        dir = dir.display()
    )
}

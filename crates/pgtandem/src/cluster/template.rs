//! A data directory that initdb has made, for servers to begin with.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::account::Account;
use super::error::{ClusterError, Result};
use super::home::Home;
use super::options::ClusterOptions;

/// macOS has no C.UTF-8.
const LOCALE: &str = if cfg!(target_os = "macos") { "C" } else { "C.UTF-8" };

/// What initdb made once, to be copied, which takes a fraction of the time. Servers that are copies of one template have
/// its system identifier: they must never be in one link.
#[derive(Debug)]
pub struct Template {
    options: ClusterOptions,
    password: String,
    account: Account,
    home: Home,
}

impl Template {
    /// Of `options` the programs and the superuser count. A server that is to be a copy must have the same.
    pub fn make(options: ClusterOptions) -> Result<Template> {
        let account = Account::for_servers()?;
        let home = Home::create(&account)?;
        let password = initdb(&options, &account, &home)?;
        Ok(Template { options, password, account, home })
    }

    /// Returns the superuser's password, which all copies have.
    pub(super) fn copy_to(&self, home: &Home) -> Result<String> {
        // As the server's user, who is to own the files.
        let mut command = self.account.command("cp", home.path());
        command.arg("-Rp").arg(self.home.path().join("data")).arg(home.path().join("data"));
        run(command, &self.options.name, &self.account)?;
        Ok(self.password.clone())
    }
}

/// Returns the superuser's password.
pub(super) fn initdb(options: &ClusterOptions, account: &Account, home: &Home) -> Result<String> {
    let password = uuid::Uuid::new_v4().simple().to_string();
    let file = home.write("password", &password)?;
    let mut command = account.command(options.bin.program("initdb"), home.path());
    command
        .args(["--no-sync", "--no-instructions", "--encoding=UTF8"])
        .arg(format!("--locale={LOCALE}"))
        .args(["--auth=scram-sha-256", "--username", &options.superuser])
        .arg(format!("--pwfile={}", file.display()))
        .arg("-D")
        .arg(home.path().join("data"));
    run(command, &options.name, account)?;
    fs::remove_file(&file).map_err(|e| ClusterError::io("remove", &file, e))?;
    Ok(password)
}

fn run(mut command: Command, name: &str, account: &Account) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|e| ClusterError::spawn(name, account, &command, e))?;
    if output.status.success() {
        return Ok(());
    }
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let text = [output.stdout, output.stderr].concat();
    Err(ClusterError::NoData {
        name: name.to_owned(),
        program: program.to_string_lossy().into_owned(),
        output: String::from_utf8_lossy(&text).trim_end().to_owned(),
    })
}

//! `pgtandem init`

use super::{Failure, Global, Outcome, Style, say};
use crate::config::Config;
use crate::connect::Environment;
use crate::lifecycle::{scan, write_config, write_nodes};
use clap::Args;
use std::io::Write;
use std::path::Path;

const EXAMPLES: &str = "\
Examples:
  pgtandem init new=postgres://app@db1.example/new_app legacy=postgres://app@db2.example/legacy_app
  pgtandem init new='${NEW_URL}' legacy='host=db2.example dbname=legacy_app user=app'

A password is best left to ~/.pgpass, or to a variable that is filled in when the file is read:
  pgtandem init new='postgres://app:${PW}@db1.example/new_app' …
(in single quotes, so that not the shell but pgtandem fills it in)";

/// Writes pgtandem.toml from what two or more databases have in common.
///
/// Each node gets a name, by which it is known from then on. Tables that every node has are listed; one that cannot be
/// linked as it is stands there as a comment that says why and what mends it.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Init {
    /// A node: its name, and its URL or keyword string. ${VARIABLE} inside is filled in when it is read
    #[arg(required = true, num_args = 2.., value_name = "NAME=URL", value_parser = node)]
    nodes: Vec<(String, String)>,
    /// Write over a configuration that is there
    #[arg(long)]
    force: bool,
}

fn node(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, url)) if !name.is_empty() && !url.is_empty() && !name.contains([':', '/', ' ']) => {
            Ok((name.to_owned(), url.to_owned()))
        }
        _ => Err("write NAME=URL, for example new=postgres://app@db1.example/new_app".to_owned()),
    }
}

impl Init {
    pub async fn run(self, global: &Global) -> Result<Outcome, Failure> {
        let file = global.config_file();
        if file.exists() && !self.force {
            return Err(Failure::in_usage(
                format!("{} is there already", file.display()),
                "edit it, or write over it with --force",
            ));
        }
        if let Some(twice) = given_twice(&self.nodes) {
            return Err(Failure::in_usage(
                format!("two nodes are named {twice}"),
                "give each its own name: new=… legacy=…",
            ));
        }
        // Read the way the file will be; a table has to be there for that.
        let text = format!("{}[[tables]]\nname = \"any\"\n", write_nodes(&self.nodes));
        let config = Config::parse(&file, &text, &Environment::of_process())?;
        let scan = scan(&config).await?;
        write(&file, &write_config(&self.nodes, &scan), self.force)?;

        let style = Style::of_stdout();
        let linkable = scan.candidates.iter().filter(|candidate| candidate.is_linkable());
        let names: Vec<String> = linkable.map(|candidate| candidate.name.plain()).collect();
        say(format!("{} {}", style.good("wrote"), file.display()));
        say(format!("to be linked: {}", if names.is_empty() { "nothing yet".to_owned() } else { names.join(", ") }));
        for candidate in scan.candidates.iter().filter(|candidate| !candidate.is_linkable()) {
            say(format!("{} {} (the file says why)", style.warn("left out:"), candidate.name.plain()));
        }
        if scan.elsewhere > 0 {
            say(format!("{} tables are not on every node", scan.elsewhere));
        }
        if self.nodes.iter().any(|(_, url)| holds_password(url)) {
            eprintln!(
                "{} the file holds a password: better write ${{VARIABLE}} in its place, or put it into ~/.pgpass",
                style.warn("note:")
            );
        }
        say("next: pgtandem check");
        Ok(Outcome::Fine)
    }
}

fn given_twice(nodes: &[(String, String)]) -> Option<&str> {
    let named = nodes.iter().map(|(name, _)| name.as_str());
    named.enumerate().find(|(at, name)| nodes[..*at].iter().any(|(other, _)| other == name)).map(|(_, name)| name)
}

/// Readable for its owner only: it may hold passwords.
fn write(file: &Path, text: &str, force: bool) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(0o600);
    match force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let mut out = options
        .open(file)
        .map_err(|error| Failure::at_run_time(format!("cannot write {}: {error}", file.display())))?;
    Ok(out.write_all(text.as_bytes())?)
}

fn holds_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest.split_once('@').map_or("", |(user, _)| user));
    let in_url = authority.split_once(':').is_some_and(|(_, password)| !password.starts_with("${"));
    let keyword = url.split_once("password=").is_some_and(|(_, password)| !password.starts_with("${"));
    in_url || keyword
}

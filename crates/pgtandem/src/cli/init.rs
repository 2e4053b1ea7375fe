//! `pgtandem init`

use super::{Failure, Global, Outcome, Style, say};
use crate::config::Config;
use crate::connect::Environment;
use crate::lifecycle::{Scan, scan, write_config, write_nodes};
use crate::rails::{App, Faults, Place, Tasks, of_variables, prefix};
use clap::Args;
use std::io::Write;
use std::path::Path;

const EXAMPLES: &str = "\
Examples:
  pgtandem init new=postgres://app@db1.example/new_app legacy=postgres://app@db2.example/legacy_app
  pgtandem init new='${NEW_URL}' legacy='host=db2.example dbname=legacy_app user=app'

A password is best left to ~/.pgpass, or to a variable that is filled in when the file is read:
  pgtandem init new='postgres://app:${PW}@db1.example/new_app' …
(in single quotes, so that not the shell but pgtandem fills it in)

Rails applications, whose config/database.yml is read; each gets lib/tasks/db_connection.rake:
  pgtandem init --rails new_app --rails legacy_app
  pgtandem init --rails new_app legacy='${LEGACY_URL}'
  LEGACY_DATABASE_NAME=shop LEGACY_DATABASE_HOST=db2.example pgtandem init --rails new_app";

/// Writes pgtandem.toml from what two or more databases have in common.
///
/// Each node gets a name, by which it is known from then on. Tables that every node has are listed; one that cannot be
/// linked as it is stands there as a comment that says why and what mends it.
///
/// With --rails, the nodes are the databases of Rails applications: what config/database.yml says is taken over, but
/// for passwords, which stay in variables. LEGACY_DATABASE_HOST, _PORT, _NAME, _USER and _PASSWORD, where they are
/// set, count more for the node `legacy` (and so for any other).
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Init {
    /// A node: its name, and its URL or keyword string. ${VARIABLE} inside is filled in when it is read
    #[arg(value_name = "NAME=URL", value_parser = node)]
    nodes: Vec<(String, String)>,
    /// A node: the database of the Rails application in this directory, by which it is named (legacy_app: legacy)
    #[arg(long, value_name = "[NAME=]PATH", value_parser = Place::parse)]
    rails: Vec<Place>,
    /// The section of config/database.yml
    #[arg(long, value_name = "ENVIRONMENT", env = "RAILS_ENV", default_value = "development", requires = "rails")]
    rails_env: String,
    /// Write over a configuration, or Rails tasks, that are there
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
        let tasks = self.rails.iter().map(|place| Tasks::file(&place.root));
        if let Some(there) = std::iter::once(file.clone()).chain(tasks).find(|file| file.exists() && !self.force) {
            return Err(Failure::in_usage(
                format!("{} is there already", there.display()),
                "edit it, or write over it with --force",
            ));
        }
        let found = Nodes::find(self.nodes, self.rails, &self.rails_env)?;
        // Read the way the file will be; a table has to be there for that.
        let text = format!("{}[[tables]]\nname = \"any\"\n", write_nodes(&found.urls));
        let config = Config::parse(&file, &text, &found.environment)?;
        let scan = scan(&config).await?;
        write(&file, &write_config(&found.urls, &scan), self.force)?;

        let style = Style::of_stdout();
        let linkable = scan.candidates.iter().filter(|candidate| candidate.is_linkable());
        let names: Vec<String> = linkable.map(|candidate| candidate.name.plain()).collect();
        say(format!("{} {}", style.good("wrote"), file.display()));
        let first = found.write_tasks(&scan, &file, self.force)?;
        say(format!("to be linked: {}", if names.is_empty() { "nothing yet".to_owned() } else { names.join(", ") }));
        for candidate in scan.candidates.iter().filter(|candidate| !candidate.is_linkable()) {
            say(format!("{} {} (the file says why)", style.warn("left out:"), candidate.name.plain()));
        }
        if scan.elsewhere > 0 {
            say(format!("{} tables are not on every node", scan.elsewhere));
        }
        found.notes(&scan);
        match first {
            Some(root) => say(format!("next: pgtandem check, or in {}: rake -T db_connection", root.display())),
            None => say("next: pgtandem check"),
        }
        Ok(Outcome::Fine)
    }
}

/// The nodes that were named, and what is known of them beyond their URLs.
struct Nodes {
    /// Names and connection strings.
    urls: Vec<(String, String)>,
    apps: Vec<App>,
    /// The process's, and the secrets that stand in the applications' files.
    environment: Environment,
}

impl Nodes {
    fn find(mut urls: Vec<(String, String)>, places: Vec<Place>, rails_env: &str) -> Result<Self, Failure> {
        let mut environment = Environment::of_process();
        let read = places.into_iter().map(|place| App::read(place, rails_env, &environment));
        let (mut apps, mut faults) = (Vec::new(), Vec::new());
        for app in read {
            match app {
                Ok(app) => apps.push(app),
                Err(Faults(more)) => faults.extend(more),
            }
        }
        if !faults.is_empty() {
            return Err(Faults(faults).into());
        }
        for (at, app) in apps.iter().enumerate() {
            urls.insert(at, (app.place.name.clone(), app.settings.url.clone()));
        }
        if let ([_], [app]) = (&urls[..], &apps[..]) {
            urls.push(other_side(app, &environment)?);
        }
        if urls.len() < 2 {
            return Err(Failure::in_usage(
                "a link takes two databases or more",
                "pgtandem init new=postgres://… legacy=postgres://…, or --rails PATH --rails PATH; see --help",
            ));
        }
        if let Some(twice) = given_twice(&urls) {
            return Err(Failure::in_usage(
                format!("two nodes are named {twice}"),
                "give each its own name: new=… legacy=…",
            ));
        }
        for (name, value) in apps.iter().flat_map(|app| &app.settings.secrets) {
            environment = environment.with(name, value);
        }
        Ok(Self { urls, apps, environment })
    }

    /// Writes the tasks of each application; returns the first one's directory.
    fn write_tasks(&self, scan: &Scan, config: &Path, force: bool) -> Result<Option<&Path>, Failure> {
        let style = Style::of_stdout();
        let linkable = scan.candidates.iter().filter(|candidate| candidate.is_linkable());
        let plain = linkable.map(|candidate| candidate.name.plain()).filter(|name| is_plain(name));
        let tables: Vec<String> = plain.collect();
        for app in &self.apps {
            let others = self.urls.iter().map(|(name, _)| name).filter(|name| **name != app.place.name);
            let peers: Vec<String> = others.cloned().collect();
            let written = Tasks::new(app, &peers, tables.clone(), config).write(&app.place.root, force);
            let written = written.map_err(|error| Failure::at_run_time(error.to_string()))?;
            say(format!("{} {}", style.good("wrote"), written.display()));
        }
        Ok(self.apps.first().map(|app| app.place.root.as_path()))
    }

    /// What a person should know before going on.
    fn notes(&self, scan: &Scan) {
        let note = |text: String| eprintln!("{} {text}", Style::of_stderr().warn("note:"));
        if self.urls.iter().any(|(_, url)| holds_password(url)) {
            note(
                "the file holds a password: better write ${VARIABLE} in its place, or put it into ~/.pgpass".to_owned(),
            );
        }
        for app in &self.apps {
            for (variable, _) in &app.settings.secrets {
                let root = app.place.root.display();
                note(format!(
                    "set {variable} for pgtandem to the password in {root}/config/database.yml (tasks run there do so)"
                ));
            }
        }
        if let [one, other] = &self.apps[..] {
            for variable in one.settings.variables.iter().filter(|name| other.settings.variables.contains(name)) {
                note(format!(
                    "both applications read {variable}: pgtandem gives both the same value; {}_… and {}_… tell them apart",
                    prefix(&one.place.name),
                    prefix(&other.place.name)
                ));
            }
            let linked = |table: &String| scan.candidates.iter().any(|candidate| candidate.name.plain() == *table);
            for table in one.tables_of_schema().intersection(&other.tables_of_schema()).filter(|table| !linked(table)) {
                note(format!("{table} is in db/schema.rb of both, but not in both databases: rake db:migrate"));
            }
        }
    }
}

/// Where the other side of an application is, when only variables say so.
fn other_side(app: &App, environment: &Environment) -> Result<(String, String), Failure> {
    let name = if app.place.name == "legacy" { "new" } else { "legacy" };
    let variables = prefix(name);
    let settings = of_variables(name, environment).ok_or_else(|| {
        Failure::in_usage(
            format!("{} is one database; where is the other?", app.place.root.display()),
            format!(
                "add --rails PATH or NAME=URL, or set {variables}_NAME, with {variables}_HOST, _PORT, _USER and _PASSWORD"
            ),
        )
    })?;
    Ok((name.to_owned(), settings.url))
}

/// Can be the name of a task, of a foreign table, and stand in SQL without quotes.
fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
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
    let password = url.split_once("password=").map(|(_, password)| password.trim_start_matches('\''));
    let keyword = password.is_some_and(|password| !password.starts_with("${"));
    in_url || keyword
}

//! How a node is written into `pgtandem.toml`: what is known stands there, a secret never does.

use super::database_yml::{DatabaseYml, Value};
use super::erb::{Expression, Part};
use super::fault::{Fault, Faults};
use crate::connect::Environment;

/// A connection string for the configuration, and what it asks of the environment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NodeSettings {
    pub url: String,
    /// Variables it names that `database.yml` has the value of: they are to be set for pgtandem.
    pub secrets: Vec<(String, String)>,
    /// The variables of the application's own that it names.
    pub variables: Vec<String>,
}

/// What `database.yml` calls it, what a connection string calls it, and the end of the variable's name.
const KEYS: &[(&str, &str, &str)] = &[
    ("host", "host", "HOST"),
    ("port", "port", "PORT"),
    ("database", "dbname", "NAME"),
    ("username", "user", "USER"),
    ("password", "password", "PASSWORD"),
];
/// Means the same to a connection string.
const PASSED_ON: &[&str] = &["sslmode", "sslcert", "sslkey", "sslrootcert", "passfile", "service", "connect_timeout"];

/// `LEGACY_DATABASE` for `legacy`.
#[must_use]
pub fn prefix(node: &str) -> String {
    format!("{}_DATABASE", node.to_uppercase())
}

/// A node that only the variables `LEGACY_DATABASE_HOST`, `_PORT`, `_NAME`, `_USER` and `_PASSWORD` tell of. None:
/// the database's name is not set.
#[must_use]
pub fn of_variables(node: &str, environment: &Environment) -> Option<NodeSettings> {
    let prefix = prefix(node);
    environment.filled(&format!("{prefix}_NAME"))?;
    let mut words = Vec::new();
    for (_, word, end) in KEYS {
        let variable = format!("{prefix}_{end}");
        if environment.filled(&variable).is_some() {
            words.push(format!("{word}='${{{variable}}}'"));
        }
    }
    Some(NodeSettings { url: words.join(" "), ..NodeSettings::default() })
}

pub(super) fn of_yml(yml: &DatabaseYml, node: &str, environment: &Environment) -> Result<NodeSettings, Faults> {
    let mut writer =
        Writer { yml, prefix: prefix(node), environment, settings: NodeSettings::default(), faults: vec![] };
    writer.check_adapter();
    let mut words = match yml.get("url") {
        Some(value) => return writer.url(&value),
        None => Vec::new(),
    };
    for (key, word, end) in KEYS {
        if let Some(text) = writer.setting(key, end) {
            words.push(format!("{word}={text}"));
        }
    }
    for key in PASSED_ON {
        if let Some(text) = writer.plain(key) {
            words.push(format!("{key}={text}"));
        }
    }
    writer.settings.url = words.join(" ");
    writer.done()
}

struct Writer<'a> {
    yml: &'a DatabaseYml,
    prefix: String,
    environment: &'a Environment,
    settings: NodeSettings,
    faults: Vec<Fault>,
}

impl Writer<'_> {
    fn check_adapter(&mut self) {
        let adapter = self.yml.literal("adapter");
        if let Some(other) = adapter.filter(|adapter| !matches!(*adapter, "postgresql" | "postgis")) {
            let line = self.yml.get("adapter").map_or(0, |value| value.line);
            self.fault(line, format!("the database is of the kind {other}"), "pgtandem links PostgreSQL databases");
        }
    }

    /// One of the five that a variable of the node's can say in place of the file.
    fn setting(&mut self, key: &str, end: &str) -> Option<String> {
        let variable = format!("{}_{end}", self.prefix);
        if self.environment.filled(&variable).is_some() {
            return Some(format!("'${{{variable}}}'"));
        }
        let value = self.yml.get(key)?;
        if key != "password" {
            let remedy = format!("say it in the variable {variable}");
            return self.spell(&value, &remedy);
        }
        match &value.parts[..] {
            [Part::Expression(Expression::Variable { name, default })] => match self.environment.filled(name) {
                Some(_) => Some(self.own_variable(name)),
                // As it is written in a file that is in the repository: no secret, but not for us to spread.
                None => default.clone().map(|default| self.secret(&variable, default)),
            },
            parts => {
                let mut text = String::new();
                for part in parts {
                    match part {
                        Part::Text(part) => text.push_str(part),
                        Part::Expression(Expression::Variable { name, default }) => {
                            text.push_str(self.environment.get(name).or(default.as_deref()).unwrap_or_default());
                        }
                        Part::Expression(Expression::Other { source, line }) => {
                            let what = format!("the password is what Ruby makes of `{source}`; it is not evaluated");
                            self.fault(*line, what, &format!("set {variable} to it"));
                            return None;
                        }
                    }
                }
                Some(self.secret(&variable, text))
            }
        }
    }

    fn plain(&mut self, key: &str) -> Option<String> {
        let value = self.yml.get(key)?;
        self.spell(&value, "name this database as NAME=URL in place of --rails")
    }

    /// A variable that is set is named; where it is not, its default is the value.
    fn spell(&mut self, value: &Value<'_>, remedy: &str) -> Option<String> {
        let mut text = String::new();
        for part in &value.parts {
            match part {
                Part::Text(part) => text.push_str(&escape(part)),
                Part::Expression(Expression::Variable { name, default }) => match self.environment.filled(name) {
                    Some(_) => {
                        self.settings.variables.push(name.clone());
                        text.push_str(&format!("${{{name}}}"));
                    }
                    None => text.push_str(&escape(default.as_deref().unwrap_or_default())),
                },
                Part::Expression(Expression::Other { source, line }) => {
                    self.fault(*line, format!("`{source}` is Ruby, and is not evaluated"), remedy);
                    return None;
                }
            }
        }
        // As to Rails: nothing said.
        (!text.is_empty()).then(|| format!("'{text}'"))
    }

    fn own_variable(&mut self, name: &str) -> String {
        self.settings.variables.push(name.to_owned());
        format!("'${{{name}}}'")
    }

    fn secret(&mut self, variable: &str, value: String) -> String {
        self.settings.secrets.push((variable.to_owned(), value));
        format!("'${{{variable}}}'")
    }

    /// `url:` says it all, and wins over the other keys, as in Rails.
    fn url(mut self, value: &Value<'_>) -> Result<NodeSettings, Faults> {
        match &value.parts[..] {
            [Part::Expression(Expression::Variable { name, default })] => {
                match (self.environment.filled(name), default) {
                    (Some(_), _) => {
                        self.settings.variables.push(name.clone());
                        self.settings.url = format!("${{{name}}}");
                    }
                    (None, Some(url)) => self.literal_url(url),
                    (None, None) => self.fault(value.line, format!("{name} is not set"), "set it, and run this again"),
                }
            }
            [Part::Text(url)] => self.literal_url(url),
            _ => {
                let remedy = "write it as <%= ENV[\"DATABASE_URL\"] %>, or name this database as NAME=URL";
                self.fault(value.line, "the URL is put together by Ruby", remedy);
            }
        }
        self.done()
    }

    fn literal_url(&mut self, url: &str) {
        // Rails takes the adapter from the scheme.
        let url = url.strip_prefix("postgis://").map_or_else(|| url.to_owned(), |rest| format!("postgres://{rest}"));
        let password = url.find("://").and_then(|at| {
            let authority = at + 3;
            let end = authority + url[authority..].find(['/', '?']).unwrap_or(url.len() - authority);
            let at_sign = authority + url[authority..end].rfind('@')?;
            let colon = authority + url[authority..at_sign].find(':')?;
            Some(colon + 1..at_sign)
        });
        self.settings.url = match password {
            Some(range) => {
                let variable = format!("{}_PASSWORD", self.prefix);
                let text = format!("{}${{{variable}}}{}", dollars(&url[..range.start]), dollars(&url[range.end..]));
                // As it stands there: percent-encoded.
                self.settings.secrets.push((variable, url[range].to_owned()));
                text
            }
            None => dollars(&url),
        };
    }

    fn fault(&mut self, line: usize, what: impl Into<String>, remedy: &str) {
        self.faults.push(Fault::new(&self.yml.file, line, what, remedy));
    }

    fn done(self) -> Result<NodeSettings, Faults> {
        if self.faults.is_empty() { Ok(self.settings) } else { Err(Faults(self.faults)) }
    }
}

/// For the inside of a quoted word of a connection string, and for `pgtandem.toml`.
fn escape(text: &str) -> String {
    dollars(&text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn dollars(text: &str) -> String {
    text.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(yml: &str, rails_env: &str, variables: &[(&str, &str)]) -> Result<NodeSettings, Faults> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        std::fs::write(dir.path().join("config/database.yml"), yml).unwrap();
        let environment = variables.iter().fold(Environment::empty(), |all, (name, value)| all.with(name, *value));
        let yml = DatabaseYml::read(dir.path(), rails_env).map_err(|faults| named(faults, dir.path()))?;
        of_yml(&yml, "legacy", &environment).map_err(|faults| named(faults, dir.path()))
    }

    fn named(faults: Faults, root: &Path) -> Faults {
        let strip = |fault: Fault| Fault { file: fault.file.strip_prefix(root).unwrap().to_owned(), ..fault };
        Faults(faults.0.into_iter().map(strip).collect())
    }

    const USUAL: &str = "
default: &default
  adapter: postgresql
  encoding: unicode
  # password: <%= ENV['EXAMPLE'].decrypt %>
  pool: <%= ENV.fetch(\"RAILS_MAX_THREADS\") { 5 }.to_i %>
  host: <%= ENV.fetch(\"DB_HOST\") { \"localhost\" } %>
  port: 5433

development:
  <<: *default
  database: shop_<%= ENV['STAGE'] || 'dev' %>
  username: app

production:
  <<: *default
  database: shop
  host: db.example
  username: shop
  password: <%= ENV[\"SHOP_PASSWORD\"] %>
";

    #[test]
    fn defaults_and_variables_are_resolved_as_rails_does() {
        let settings = read(USUAL, "development", &[]).unwrap();
        assert_eq!(settings.url, "host='localhost' port='5433' dbname='shop_dev' user='app'");
        let settings = read(USUAL, "development", &[("DB_HOST", "h"), ("STAGE", "qa")]).unwrap();
        assert_eq!(settings.url, "host='${DB_HOST}' port='5433' dbname='shop_${STAGE}' user='app'");
        let settings = read(USUAL, "production", &[("SHOP_PASSWORD", "s3cret")]).unwrap();
        let url = "host='db.example' port='5433' dbname='shop' user='shop' password='${SHOP_PASSWORD}'";
        assert_eq!((settings.url.as_str(), settings.secrets.len()), (url, 0));
        // The node's own variables win over the file.
        let settings = read(USUAL, "production", &[("LEGACY_DATABASE_HOST", "x"), ("LEGACY_DATABASE_PASSWORD", "y")]);
        let url = "host='${LEGACY_DATABASE_HOST}' port='5433' dbname='shop' user='shop' \
                   password='${LEGACY_DATABASE_PASSWORD}'";
        assert_eq!(settings.unwrap().url, url);
    }

    #[test]
    fn a_password_that_stands_in_the_file_does_not_go_into_ours() {
        let yml = "production:\n  adapter: postgresql\n  database: it's\n  password: pa${ss}\n";
        let settings = read(yml, "production", &[]).unwrap();
        assert_eq!(settings.url, "dbname='it\\'s' password='${LEGACY_DATABASE_PASSWORD}'");
        assert_eq!(settings.secrets, [("LEGACY_DATABASE_PASSWORD".to_owned(), "pa${ss}".to_owned())]);
        let yml = "production:\n  url: postgres://app:p%40ss@db/shop?sslmode=require\n";
        let settings = read(yml, "production", &[]).unwrap();
        assert_eq!(settings.url, "postgres://app:${LEGACY_DATABASE_PASSWORD}@db/shop?sslmode=require");
        assert_eq!(settings.secrets[0].1, "p%40ss");
        let yml = "production:\n  url: <%= ENV['DATABASE_URL'] %>\n";
        assert_eq!(read(yml, "production", &[("DATABASE_URL", "x")]).unwrap().url, "${DATABASE_URL}");
    }

    #[test]
    fn several_databases_of_one_environment() {
        let yml = "production:\n  replica:\n    database: r\n  primary: {adapter: postgresql, database: p, port: ~}\n";
        assert_eq!(read(yml, "production", &[]).unwrap().url, "dbname='p'");
    }

    #[test]
    fn what_cannot_be_read_is_reported_with_its_line() {
        let yml = "production:\n  adapter: mysql2\n  host: <%= host() %>\n  password: <%= Rails.secret %>\n";
        insta::assert_snapshot!(read(yml, "production", &[]).unwrap_err(), @r"
        config/database.yml:2: the database is of the kind mysql2
          → pgtandem links PostgreSQL databases
        config/database.yml:3: `host()` is Ruby, and is not evaluated
          → say it in the variable LEGACY_DATABASE_HOST
        config/database.yml:4: the password is what Ruby makes of `Rails.secret`; it is not evaluated
          → set LEGACY_DATABASE_PASSWORD to it
        ");
        insta::assert_snapshot!(read("a: [\nb: 1\n", "production", &[]).unwrap_err(), @r"
        config/database.yml:2: this is not YAML: invalid indentation
          → mend it
        ");
        insta::assert_snapshot!(read("default: {}\nstaging: {}\n", "production", &[]).unwrap_err(), @r"
        config/database.yml: there is no environment `production`
          → name one with --rails-env: staging
        ");
    }
}

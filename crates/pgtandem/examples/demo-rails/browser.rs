//! As much of a browser as it takes to fill in a form: one cookie, links followed, tokens sent back.

use std::cell::RefCell;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Response;
use ureq::{Body, http::header};

pub struct Browser {
    agent: Agent,
    root: String,
    cookie: RefCell<Option<String>>,
}

/// A page that was loaded.
#[derive(Debug, Clone)]
pub struct Page {
    pub status: u16,
    pub html: String,
}

/// A form as it was received: where it goes, and its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    pub action: String,
    pub fields: Vec<(String, String)>,
}

impl Browser {
    pub fn new(root: &str) -> Self {
        // A redirect is followed by hand, so that the cookie goes along.
        let config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        Self { agent: config.into(), root: root.to_owned(), cookie: RefCell::new(None) }
    }

    pub fn get(&self, path: &str) -> Result<Page, String> {
        let mut request = self.agent.get(format!("{}{path}", self.root));
        if let Some(cookie) = &*self.cookie.borrow() {
            request = request.header(header::COOKIE, cookie);
        }
        self.page(path, request.call())
    }

    /// Sends a form with some of its fields changed; the page it leads to.
    pub fn submit(&self, form: &Form, changes: &[(&str, &str)]) -> Result<Page, String> {
        let mut fields = form.fields.clone();
        for (name, value) in changes {
            let field = fields.iter_mut().find(|(of, _)| of == name);
            let field = field.ok_or_else(|| format!("the form {} has no field {name}", form.action))?;
            field.1 = (*value).to_owned();
        }
        let mut request = self.agent.post(format!("{}{}", self.root, form.action));
        if let Some(cookie) = &*self.cookie.borrow() {
            request = request.header(header::COOKIE, cookie);
        }
        self.page(&form.action, request.send_form(fields))
    }

    fn page(&self, path: &str, answer: Result<Response<Body>, ureq::Error>) -> Result<Page, String> {
        let mut answer = answer.map_err(|error| format!("{}{path}: {error}", self.root))?;
        let text = |name: header::HeaderName| answer.headers().get(name)?.to_str().ok().map(str::to_owned);
        if let Some(cookie) = text(header::SET_COOKIE) {
            let pair = cookie.split(';').next().unwrap_or_default();
            *self.cookie.borrow_mut() = Some(pair.to_owned());
        }
        if let Some(location) = text(header::LOCATION) {
            let path = location.strip_prefix(&self.root).unwrap_or(&location);
            return self.get(path);
        }
        let status = answer.status().as_u16();
        let html = answer.body_mut().read_to_string().map_err(|error| format!("{}{path}: {error}", self.root))?;
        Ok(Page { status, html })
    }
}

impl Page {
    /// The table row that shows this text; the first one.
    pub fn row(&self, text: &str) -> Option<Page> {
        let rows = self.html.split("<tr id=").skip(1).map(|row| row.split("</tr>").next().unwrap_or_default());
        let found = rows.into_iter().find(|row| row.contains(text))?;
        Some(Page { status: self.status, html: found.to_owned() })
    }

    /// The number in `id="product_12"`, of a row.
    pub fn id(&self) -> Option<u64> {
        self.html.split_once("\"product_")?.1.split_once('"')?.0.parse().ok()
    }

    /// The first form.
    pub fn form(&self) -> Result<Form, String> {
        let found = self.html.split_once("<form ").and_then(|(_, rest)| rest.split_once("</form>"));
        let (form, _) = found.ok_or_else(|| format!("there is no form ({}):\n{}", self.status, self.html))?;
        let (head, inside) = form.split_once('>').ok_or("a form without an end")?;
        let action = attribute(head, "action").ok_or("a form without an action")?;
        let mut fields = Vec::new();
        let mut rest = inside;
        while let Some(at) = rest.find('<') {
            let (tag, after) = rest[at + 1..].split_once('>').ok_or("a tag without an end")?;
            rest = after;
            let Some(name) = attribute(tag, "name") else { continue };
            let value = match tag.split_whitespace().next() {
                Some("input") => attribute(tag, "value"),
                Some("textarea") => after.split_once("</textarea>").map(|(text, _)| unescape(text.trim_start())),
                Some("select") => after.split_once("</select>").and_then(|(options, _)| {
                    let chosen = options.split("<option ").find(|option| option.contains("selected=\"selected\""))?;
                    attribute(chosen, "value")
                }),
                _ => continue,
            };
            fields.push((name, value.unwrap_or_default()));
        }
        Ok(Form { action, fields })
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!("{name}=\""))?;
    Some(unescape(rest.split_once('"')?.0))
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'").replace("&amp;", "&")
}

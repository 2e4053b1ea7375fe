//! Products made, changed and deleted in one application's pages, and seen in the other's.

use super::browser::{Browser, Page};
use super::shop::{LEGACY, NEW, Shop};
use super::wait::{PATIENCE, wait_until};

/// Both ways; each step is told.
///
/// # Errors
/// What was not as it should be.
pub fn both_ways(shop: &Shop, tell: impl Fn(&str)) -> Result<(), String> {
    let [new, legacy] = [shop.browser(NEW)?, shop.browser(LEGACY)?];
    for (here, there, name, from, to) in
        [(&new, &legacy, "Folding chair", "new", "legacy"), (&legacy, &new, "Oak shelf", "legacy", "new")]
    {
        create(here, name, "89.5")?;
        let row = seen(there, name)?;
        let id = row.id().ok_or("a row without an id")?;
        tell(&format!("made in {from}, seen in {to}: {name}, with id {id}"));
        // What the other one made is changed here.
        edit(there, id, &[("product[price]", "75.25"), ("product[description]", "now \"cheaper\" & <better>")])?;
        let row = wait_for(here, &format!("the new price of {name}"), |page| page.row(name).filter(shows("75.25")))?;
        assert_shows(&row, "&lt;better&gt;")?;
        tell(&format!("changed in {to}, seen in {from}: its price and description"));
        delete(here, name)?;
        wait_for(there, &format!("{name} to go"), |page| page.row(name).is_none().then(|| page.clone()))?;
        tell(&format!("deleted in {from}, gone in {to}"));
    }
    // A product that keeps what the other side does not know of.
    edit(&new, 1, &[("product[price]", "26.40")])?;
    let kettle = wait_for(&legacy, "the kettle's price", |page| page.row("Kettle").filter(shows("26.40")))?;
    assert_shows(&kettle, "K-17")?;
    tell(
        "changed in new, seen in legacy: the kettle's price; its warehouse code, a column that only legacy has, stays",
    );
    Ok(())
}

/// The comparison page of each finds no difference.
///
/// # Errors
/// When it does.
pub fn compare(shop: &Shop) -> Result<(), String> {
    for app in [NEW, LEGACY] {
        let page = shop.browser(app)?.get("/comparison")?;
        if page.status != 200 || !page.html.contains("the same on both sides") {
            return Err(format!("the comparison page of {}:\n{}", shop.url(app)?, page.html));
        }
    }
    Ok(())
}

pub fn create(browser: &Browser, name: &str, price: &str) -> Result<Page, String> {
    let form = browser.get("/products/new")?.form()?;
    saved(browser.submit(&form, &[("product[name]", name), ("product[price]", price)])?, "was added")
}

pub fn edit(browser: &Browser, id: u64, changes: &[(&str, &str)]) -> Result<Page, String> {
    let form = browser.get(&format!("/products/{id}/edit"))?.form()?;
    saved(browser.submit(&form, changes)?, "was saved")
}

pub fn delete(browser: &Browser, name: &str) -> Result<Page, String> {
    let row = browser.get("/products")?.row(name).ok_or_else(|| format!("there is no {name} to delete"))?;
    saved(browser.submit(&row.form()?, &[])?, "was deleted")
}

/// The row that shows it, as soon as there is one.
pub fn seen(browser: &Browser, text: &str) -> Result<Page, String> {
    wait_for(browser, text, |page| page.row(text))
}

fn wait_for<T>(browser: &Browser, what: &str, look: impl Fn(&Page) -> Option<T>) -> Result<T, String> {
    let mut found = None;
    wait_until(what, PATIENCE, || {
        found = browser.get("/products").map(|page| look(&page)).transpose();
        found.is_some()
    });
    found.unwrap_or_else(|| Err(format!("not seen: {what}")))
}

fn shows(text: &str) -> impl Fn(&Page) -> bool {
    move |page| page.html.contains(text)
}

fn assert_shows(page: &Page, text: &str) -> Result<(), String> {
    if page.html.contains(text) { Ok(()) } else { Err(format!("`{text}` is not shown:\n{}", page.html)) }
}

fn saved(page: Page, says: &str) -> Result<Page, String> {
    match page.status == 200 && page.html.contains(says) {
        true => Ok(page),
        false => Err(format!("the page ({}) does not say `{says}`:\n{}", page.status, page.html)),
    }
}

//! A page that needs nothing from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Every page's style sheet.
pub(crate) const STYLE: &str = include_str!("style.css");

/// The page of this title around a body.
pub(crate) fn page(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

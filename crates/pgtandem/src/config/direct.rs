//! `mode = "direct"` and what goes with it.

use std::time::Duration;

use super::read::{NodeDraft, Reader, Section};
use super::{Capture, DirectSettings};

impl<'a> Reader<'a> {
    pub(super) fn direct(&mut self, root: &Section<'a>, nodes: &[NodeDraft]) -> Option<DirectSettings> {
        const MODE: &str = "mode = \"stream\" or mode = \"direct\", above [nodes…]";
        let mode = self.text_value(root, "mode", MODE);
        let is_direct = match &mode {
            Some((text, _)) if text == "direct" => true,
            Some((text, _)) if text == "stream" => false,
            Some((text, span)) => {
                self.fault(span.clone(), format!("`{text}` is not a mode"), format!("write {MODE}"));
                false
            }
            None => false,
        };
        let settings = self.direct_section(root);
        let Some((_, span)) = mode.filter(|_| is_direct) else {
            if let Some(value) = root.table.get("direct") {
                self.fault(value.span(), "[direct] has no effect without mode = \"direct\"", format!("write {MODE}"));
            }
            return None;
        };
        if nodes.len() > 2 {
            let what = format!("direct mode links two nodes, and there are {}", nodes.len());
            self.fault(span, what, "take mode out: stream mode links any number of nodes");
        }
        for node in nodes {
            if node.capture == Some(Capture::Wal) {
                let what = format!("node `{}` has capture = \"wal\", and direct mode captures by triggers", node.name);
                self.fault(node.name_span.clone(), what, "take capture out");
            }
        }
        Some(settings)
    }

    fn direct_section(&mut self, root: &Section<'a>) -> DirectSettings {
        let defaults = DirectSettings::default();
        let Some(value) = root.table.get("direct") else { return defaults };
        let Some(section) = self.section(value, "`direct`", "write [direct] and its keys below it") else {
            return defaults;
        };
        self.only_known(&section, "of [direct]", &["wait_ms"]);
        let wait = u64::try_from(defaults.wait.as_millis()).unwrap_or_default();
        DirectSettings { wait: Duration::from_millis(self.number(&section, "wait_ms", 100..=60_000, wait)) }
    }
}

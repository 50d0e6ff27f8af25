//! A file of results, whose values are found by their paths and need not be there.

use serde_json::Value;

/// A part of a JSON document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Document<'a>(pub(super) &'a Value);

impl<'a> Document<'a> {
    /// The part at a path such as `/settings/workload`; null where there is none.
    pub(super) fn at(self, path: &str) -> Self {
        Self(self.0.pointer(path).unwrap_or(&Value::Null))
    }

    pub(super) fn is_there(self) -> bool {
        !self.0.is_null()
    }

    pub(super) fn number(self, path: &str) -> Option<f64> {
        self.at(path).0.as_f64()
    }

    pub(super) fn is_true(self, path: &str) -> bool {
        self.at(path).0.as_bool().unwrap_or_default()
    }

    /// A text as it is, a number as JSON writes it, other parts as JSON.
    pub(super) fn text(self, path: &str) -> Option<String> {
        match self.at(path).0 {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// The same, or a dash.
    pub(super) fn shown(self, path: &str) -> String {
        self.text(path).unwrap_or_else(dash)
    }

    /// A number with so many digits behind the point, or a dash.
    pub(super) fn rounded(self, path: &str, digits: usize) -> String {
        self.number(path).map_or_else(dash, |number| format!("{number:.digits$}"))
    }

    /// A share as per cent, or a dash.
    pub(super) fn percent(self, path: &str) -> String {
        self.number(path).map_or_else(dash, |share| format!("{:.1} %", 100.0 * share))
    }

    /// The elements of a list; none where there is no list.
    pub(super) fn items(self, path: &str) -> impl Iterator<Item = Self> + use<'a> {
        self.at(path).0.as_array().into_iter().flatten().map(Self)
    }

    /// The elements of a list, with commas between them.
    pub(super) fn joined(self, path: &str) -> String {
        self.items(path).filter_map(|item| item.text("")).collect::<Vec<_>>().join(",")
    }
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_there_is_a_dash_or_nothing() {
        let value = json!({"a": {"b": [1, 2.5, "three"]}, "share": 0.123_456, "name": "x", "no": null, "yes": true});
        let document = Document(&value);
        assert_eq!(
            (document.shown("/name"), document.shown("/gone"), document.shown("/no")),
            ("x".into(), "-".into(), "-".into())
        );
        assert_eq!((document.rounded("/share", 2), document.percent("/share")), ("0.12".into(), "12.3 %".into()));
        assert_eq!((document.rounded("/name", 2), document.percent("/gone")), ("-".into(), "-".into()));
        assert_eq!((document.joined("/a/b"), document.joined("/name")), ("1,2.5,three".into(), String::new()));
        assert!(document.is_true("/yes") && !document.is_true("/gone") && !document.at("/no").is_there());
    }
}

//! Bodies of `POST /put`: what is accepted is what a general parser of JSON reads.
#![no_main]

use kv_node::http::put_fields;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

/// The key and the value of a plain write.
fn plain(object: &Map<String, Value>) -> Option<(&str, &str)> {
    let others = ["value_base64", "if_match", "if_absent"].iter().any(|name| object.contains_key(*name));
    let (key, value) = (object.get("key")?.as_str()?, object.get("value")?.as_str()?);
    (!others && !key.is_empty()).then_some((key, value))
}

fuzz_target!(|body: &[u8]| {
    let found = put_fields(body).map(|put| (put.key.into_owned(), put.value.into_owned())).ok();
    // A general parser refuses more: it also reads the members that a write ignores.
    let Ok(Value::Object(object)) = serde_json::from_slice(body) else { return };
    if let Some((key, value)) = &found {
        assert_eq!(object.get("key").and_then(Value::as_str), Some(&key[..]));
        if let Some(text) = object.get("value").filter(|text| !text.is_null()) {
            assert_eq!(text.as_str().map(str::as_bytes), Some(&value[..]));
        }
    }
    if let Some((key, value)) = plain(&object) {
        // Without the members that occur twice, of which the general parser keeps the last.
        let body = serde_json::to_vec(&object).expect("JSON");
        let put = put_fields(&body).ok().expect("a plain write is accepted");
        assert_eq!((&*put.key, &*put.value), (key, value.as_bytes()));
    }
});

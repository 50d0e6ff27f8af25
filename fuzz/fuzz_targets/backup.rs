//! Lines of a backup: a key that is read is the same after it was written and read again, and a whole backup is
//! only what ends with its digest.
#![no_main]

use kv_node::backup::{Reader, Writer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut reader = Reader::default();
    let mut keys = Vec::new();
    for line in text.split_inclusive('\n') {
        match reader.line(line) {
            Ok(key) => keys.extend(key),
            Err(_) => break,
        }
    }
    let whole = reader.end();
    assert!(whole.as_ref().map_or(true, |whole| whole.keys == keys.len() as u64));

    let (mut writer, mut reader) = (Writer::default(), Reader::default());
    reader.line(&writer.header("1.0000000000000001".to_owned(), keys.len() as u64)).expect("a header");
    for key in &keys {
        let again = reader.line(&writer.key(key)).expect("a key that was read");
        assert_eq!(again.as_ref(), Some(key));
    }
    reader.line(&writer.trailer()).expect("the end");
    assert_eq!(reader.end().expect("it is whole").keys, keys.len() as u64);
});

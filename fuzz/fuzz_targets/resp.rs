//! Commands of Redis' protocol: however the bytes are cut, they are the same commands and the same error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((switch, bytes)) = data.split_first() else { return };
    let (authenticated, part) = (switch & 1 == 0, usize::from(switch >> 1) + 1);
    let whole = kv_node::fuzz::commands([bytes], authenticated);
    let parts = kv_node::fuzz::commands(bytes.chunks(part), authenticated);
    assert_eq!(whole, parts);
});

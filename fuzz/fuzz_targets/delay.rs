//! Laws of delays, as `DELAY` and `PATCH /config` take them: what is accepted has finite bounds and is the same after it was
//! written and read again.
#![no_main]

use kv_node::config::parse_delay;
use kvcluster_api::config::MILLISECONDS_MAX;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(law) = parse_delay(text) else { return };
    let delays = law.resolve().expect("parse_delay has resolved it");
    let all = [delays.bounds_ms(), delays.of_follower(0).bounds_ms(), delays.of_follower(63).bounds_ms()];
    for (min_ms, max_ms) in all.into_iter().chain(delays.shared().map(|part| part.bounds_ms())) {
        assert!(0.0 <= min_ms && min_ms <= max_ms && max_ms <= MILLISECONDS_MAX.into(), "{min_ms} to {max_ms} ms");
    }
    let written = serde_json::to_string(&law).expect("JSON");
    assert_eq!(parse_delay(&written).ok(), Some(law), "{written}");
});

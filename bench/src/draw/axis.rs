//! How an axis is divided.

/// A round step (1, 2, 2.5 or 5 times a power of ten) that makes about five to ten ticks.
pub(crate) fn tick_step(highest: f64) -> f64 {
    let rough = highest / 10.0;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0].map(|factor| factor * power);
    steps.into_iter().find(|step| *step >= rough).unwrap_or(10.0 * power)
}

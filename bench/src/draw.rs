//! Drawings: [`svg`] with text that stays text, the same as pixels, and line [`chart`]s. It knows nothing of what is drawn.

mod axis;
pub mod chart;
mod png;
pub(crate) mod svg;

pub(crate) use self::{axis::tick_step, png::rasterize};

//! What the fuzz targets in `fuzz` need of private modules.

pub use crate::resp::fuzz::{Commands, commands};
pub use crate::store::fuzz::{Loaded, framed, load};

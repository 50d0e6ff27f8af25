//! Drawings as pixels, with a font that comes with this program.

use std::sync::Arc;

use anyhow::{Context, Result};
use resvg::{tiny_skia, usvg};

/// Pixels per unit of the drawing: sharp on paper at the width of a page.
const SCALE: f32 = 2.0;

/// A drawing as a PNG file.
pub(crate) fn rasterize(drawing: &str) -> Result<Vec<u8>> {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    let options = usvg::Options { fontdb: Arc::new(fonts), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(drawing, &options).context("failed to read the drawing")?;
    let size = tree.size().to_int_size().scale_by(SCALE).context("failed to scale the drawing")?;
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height()).context("failed to allocate the picture")?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().context("failed to encode the picture")
}

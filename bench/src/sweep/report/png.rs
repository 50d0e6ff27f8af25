//! `quorum_vs_latency.png`: the plot as pixels.

use anyhow::Result;

use super::{Exporter, SweepReport, plot};
use crate::draw::rasterize;

/// Renders the plot to PNG.
#[derive(Debug)]
pub struct PngPlot;

impl Exporter for PngPlot {
    fn file_name(&self) -> &'static str {
        "quorum_vs_latency.png"
    }

    fn render(&self, report: &SweepReport) -> Result<Vec<u8>> {
        rasterize(&plot::draw(report))
    }
}

/// Renders the distributions to PNG.
#[derive(Debug)]
pub struct DistributionsPng;

impl Exporter for DistributionsPng {
    fn file_name(&self) -> &'static str {
        "latency_distributions.png"
    }

    fn render(&self, report: &SweepReport) -> Result<Vec<u8>> {
        rasterize(&plot::draw_distributions(report))
    }
}

#[cfg(test)]
mod tests {
    use resvg::tiny_skia;

    use super::*;
    use crate::sweep::testing::{Behaviour, synthetic_report};

    #[test]
    fn the_picture_has_its_size_and_its_text_is_drawn() {
        let report = synthetic_report(Behaviour::Sound, 5, 0, 200, 200);
        let picture = tiny_skia::Pixmap::decode_png(&PngPlot.render(&report).expect("rendered")).expect("a PNG");
        assert_eq!((picture.width(), picture.height()), (3000, 1720));
        // The title's band: without a font it would be white.
        let inked = |from: u32, to: u32| {
            (from..to)
                .flat_map(|y| (0..3000).map(move |x| (x, y)))
                .filter(|&(x, y)| picture.pixel(x, y).is_some_and(|pixel| pixel.red() < 128))
        };
        assert!(inked(40, 100).count() > 1_000, "the title is missing");
    }

    /// Writes the plots that a person should look at after a change: `PLOTS=directory cargo test -p kv-bench plots`.
    #[test]
    fn plots_of_all_shapes_render() {
        let directory = std::env::var_os("PLOTS");
        for (name, behaviour, followers, min_delay_ms, max_delay_ms, writes) in [
            ("sound-5", Behaviour::Sound, 5, 0, 200, 4_000),
            ("sound-3", Behaviour::Sound, 3, 20, 60, 100),
            ("sound-9", Behaviour::Sound, 9, 20, 60, 1_000),
            ("sound-25", Behaviour::Sound, 25, 0, 200, 500),
            ("queues", Behaviour::Queues, 5, 0, 200, 1_000),
            ("waits-for-all", Behaviour::WaitsForAll, 5, 0, 200, 100),
            ("single", Behaviour::Sound, 1, 0, 0, 100),
        ] {
            let mut report = synthetic_report(behaviour, followers, min_delay_ms, max_delay_ms, writes);
            if name == "sound-9" {
                report.quorums.retain(|quorum| quorum.write_quorum % 2 == 1);
            }
            let picture = PngPlot.render(&report).expect("rendered");
            assert!(picture.len() > 10_000, "{name}: {} bytes", picture.len());
            if let Some(directory) = &directory {
                let path = std::path::Path::new(directory).join(format!("{name}.png"));
                std::fs::write(path, picture).expect("written");
                let picture = DistributionsPng.render(&report).expect("rendered");
                let path = std::path::Path::new(directory).join(format!("{name}-distributions.png"));
                std::fs::write(path, picture).expect("written");
            }
        }
    }
}

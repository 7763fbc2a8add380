//! Throughput against latency over a sweep, as SVG: a curve that bends upwards shows where a server has enough.

use std::fmt::Write;

use crate::report::{Distribution, Report, Run};

const WIDTH: f64 = 720.0;
const PANEL_HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
const NUM_TICKS: f64 = 5.0;
const STYLE: &str = "<style>text{font:12px sans-serif;fill:#333}.grid{stroke:#ddd}.p50{stroke:#1f77b4;fill:#1f77b4}\
                     .p99{stroke:#d62728;fill:#d62728}polyline{stroke-width:2}polyline.p50,polyline.p99{fill:none}\
                     text.p50,text.p99{stroke:none}</style>";

/// What a panel shows of a run.
type Latency = fn(&Run) -> Option<&Distribution>;

/// One panel a latency: time to the first token, and between tokens; medians and 99th percentiles.
pub fn svg(report: &Report) -> String {
    let panels: [(&str, Latency); 2] = [
        ("time to first token, ms", |run| run.ttft_ms.as_ref()),
        ("inter-token latency, ms", |run| run.itl_ms.as_ref()),
    ];
    let height = PANEL_HEIGHT * panels.len() as f64 + TOP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\">{STYLE}\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text x=\"{LEFT}\" y=\"20\">{}</text>\n",
        escape(&format!("{} {}: {}", report.route, report.model, report.prompts))
    );
    for (number, (title, latency)) in panels.into_iter().enumerate() {
        let points: Vec<Point> = report.runs.iter().filter_map(|run| Point::new(run, latency(run)?)).collect();
        // Writing into a string does not fail.
        let _ = write_panel(&mut svg, TOP + PANEL_HEIGHT * number as f64, title, &points);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A run in a panel.
struct Point {
    label: String,
    tokens_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Point {
    fn new(run: &Run, latency: &Distribution) -> Option<Self> {
        let label = run.concurrency.map(|streams| streams.to_string()).or(run.rate.map(|rate| format!("{rate}/s")))?;
        let tokens_per_s = run.throughput.output_tokens_per_s;
        Some(Self { label, tokens_per_s, p50_ms: latency.p50, p99_ms: latency.p99 })
    }
}

fn write_panel(svg: &mut String, top: f64, title: &str, points: &[Point]) -> std::fmt::Result {
    let (bottom, right) = (top + PANEL_HEIGHT - BOTTOM, WIDTH - RIGHT);
    let step_x = step(points.iter().map(|point| point.tokens_per_s));
    let step_y = step(points.iter().map(|point| point.p99_ms));
    let x = |value: f64| LEFT + (right - LEFT) * value / (step_x * NUM_TICKS);
    let y = |value: f64| bottom - (bottom - top - TOP) * value / (step_y * NUM_TICKS);
    writeln!(svg, "<text x=\"{LEFT}\" y=\"{}\">{title}: ", top + 18.0)?;
    writeln!(svg, "<tspan fill=\"#1f77b4\">p50</tspan> <tspan fill=\"#d62728\">p99</tspan></text>")?;
    for tick in 0..=NUM_TICKS as u32 {
        let (at_x, at_y) = (f64::from(tick) * step_x, f64::from(tick) * step_y);
        let (line_x, line_y) = (x(at_x), y(at_y));
        writeln!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{line_y:.1}\" y2=\"{line_y:.1}\"/>")?;
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            line_y + 4.0,
            shown(at_y)
        )?;
        writeln!(svg, "<text x=\"{line_x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", bottom + 16.0, shown(at_x))?;
    }
    writeln!(svg, "<text x=\"{right}\" y=\"{}\" text-anchor=\"end\">output tokens/s</text>", bottom + 32.0)?;
    for (class, value) in [("p50", (|point| point.p50_ms) as fn(&Point) -> f64), ("p99", |point| point.p99_ms)] {
        let path: Vec<String> =
            points.iter().map(|point| format!("{:.1},{:.1}", x(point.tokens_per_s), y(value(point)))).collect();
        writeln!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", path.join(" "))?;
        for point in points {
            let (at_x, at_y) = (x(point.tokens_per_s), y(value(point)));
            writeln!(svg, "<circle class=\"{class}\" cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"3\"/>")?;
        }
    }
    for point in points {
        let (at_x, at_y) = (x(point.tokens_per_s), y(point.p99_ms) - 8.0);
        writeln!(svg, "<text x=\"{at_x:.1}\" y=\"{at_y:.1}\" text-anchor=\"middle\">{}</text>", escape(&point.label))?;
    }
    Ok(())
}

/// Between ticks: 1, 2 or 5 times a power of ten, so that [`NUM_TICKS`] of them reach the largest value.
fn step(values: impl Iterator<Item = f64>) -> f64 {
    let needed = values.fold(0.0, f64::max) / NUM_TICKS;
    if needed <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(needed.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|factor| factor * power).find(|&step| step >= needed).unwrap_or(10.0 * power)
}

/// A tick's value, without the noise of its multiplication.
fn shown(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_largest_value() {
        for (largest, expected) in [(0.0, 1.0), (4.0, 1.0), (5.1, 2.0), (1_128.0, 500.0), (0.3, 0.1), (26.0, 10.0)] {
            let found = step([largest / 2.0, largest].into_iter());
            assert!((found - expected).abs() < 1e-9, "{found} for {largest}");
        }
        assert_eq!([shown(0.1 + 0.2), shown(500.0), shown(0.0)], ["0.3", "500", "0"]);
    }

    #[test]
    fn names_cannot_break_out_of_the_picture() {
        assert_eq!(escape("<script>&"), "&lt;script&gt;&amp;");
    }
}

//! The report as a person reads it.

use std::fmt::Write;

use crate::report::{Distribution, Report, Run};

/// Beyond these the generator's own figures deserve a remark.
const MAX_CPU_SHARE: f64 = 0.9;
const MAX_LAG_MS: f64 = 10.0;

/// Everything that was measured, as lines of text.
pub fn render(report: &Report) -> String {
    let mut text = format!(
        "{}{}, model `{}`, temperature {}{}\n{}; {} a run; seed {}\n",
        report.url.trim_end_matches('/'),
        report.route,
        report.model,
        report.temperature,
        if report.ignore_eos { ", end token ignored" } else { "" },
        report.prompts,
        report.stop,
        report.seed,
    );
    for run in &report.runs {
        text.push('\n');
        // Writing into a string does not fail.
        let _ = write_run(&mut text, run);
    }
    text
}

fn write_run(text: &mut String, run: &Run) -> std::fmt::Result {
    writeln!(text, "{}: {:.1} s, {} ended, {} failed", run.name, run.window_s, run.num_ended, run.failures.count)?;
    for (class, failure) in &run.failures.classes {
        writeln!(text, "  failed: {class} {} times, first: {}", failure.count, failure.first)?;
    }
    let throughput = &run.throughput;
    let total = throughput.total_tokens_per_s.map_or("unknown".to_owned(), |total| format!("{total:.1}"));
    writeln!(
        text,
        "  output {:.1} tokens/s, total {total} tokens/s, {:.2} requests/s",
        throughput.output_tokens_per_s, throughput.requests_per_s
    )?;
    if run.tokens.num_counted_by_server < run.num_ended {
        let num_guessed = run.num_ended - run.tokens.num_counted_by_server;
        writeln!(text, "  note: {num_guessed} answers came without `usage`: a piece of text counts as a token there")?;
    }
    if run.num_repeated_prompts > 0 {
        writeln!(text, "  note: {} prompts were asked before, which caches know", run.num_repeated_prompts)?;
    }
    if run.num_resent > 0 {
        writeln!(
            text,
            "  note: {} requests met a kept connection that was closing, and were sent again",
            run.num_resent
        )?;
    }
    writeln!(text, "  {:14}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}", "ms", "mean", "p50", "p90", "p95", "p99", "max")?;
    for (name, distribution) in
        [("ttft", &run.ttft_ms), ("itl", &run.itl_ms), ("tpot", &run.tpot_ms), ("e2e", &run.e2e_ms)]
    {
        write_row(text, name, distribution.as_ref())?;
    }
    write_row(text, "sent too late", run.generator.send_lag_ms.as_ref())?;
    write_row(text, "event loop lag", run.generator.event_loop_lag_ms.as_ref())?;
    if let Some(goodput) = &run.goodput {
        let (goals, share) = (goodput.goals.join(" "), goodput.share * 100.0);
        writeln!(text, "  goodput {:.2} requests/s, {share:.1}% of all, within {goals}", goodput.requests_per_s)?;
    }
    write!(
        text,
        "  generator: {:.0}% of a core, {} requests at once",
        run.generator.cpu_share * 100.0,
        run.peak_running
    )?;
    let lag_ms = run.generator.event_loop_lag_ms.as_ref().map_or(0.0, |lag| lag.p99);
    if run.generator.cpu_share > MAX_CPU_SHARE || lag_ms > MAX_LAG_MS {
        write!(text, "; it fell behind: latencies hold its own delays, and throughput may be its limit")?;
    }
    text.push('\n');
    Ok(())
}

fn write_row(text: &mut String, name: &str, distribution: Option<&Distribution>) -> std::fmt::Result {
    let Some(found) = distribution else { return writeln!(text, "  {name:14}{:>10}", "-") };
    write!(text, "  {name:14}")?;
    for value in [found.mean, found.p50, found.p90, found.p95, found.p99, found.max] {
        write!(text, "{value:>10.2}")?;
    }
    text.push('\n');
    Ok(())
}

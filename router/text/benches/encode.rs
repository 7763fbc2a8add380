//! How fast a text is encoded: megabytes a second of one tokenizer on one file, the best of some rounds. What counts is
//! this thread's time on a core where the system tells it, so that other work on the machine does not.
//! `cargo bench -p forebay-text --bench encode -- (--gguf|--json) TOKENIZER TEXT [ROUNDS]`; `benchmarks/tokenizing.py`
//! runs it beside the `tokenizers` package.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use forebay_text::Tokenizer;

fn main() -> Result<(), Box<dyn Error>> {
    // cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let (tokenizer, text, rounds) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--gguf", path, text] => (Tokenizer::from_gguf(Path::new(path))?, text, 5),
        ["--json", path, text] => (Tokenizer::from_json(Path::new(path))?, text, 5),
        ["--gguf", path, text, rounds] => (Tokenizer::from_gguf(Path::new(path))?, text, rounds.parse()?),
        ["--json", path, text, rounds] => (Tokenizer::from_json(Path::new(path))?, text, rounds.parse()?),
        // `cargo bench` of the whole workspace names no files.
        _ => {
            println!("usage: encode (--gguf|--json) TOKENIZER TEXT [ROUNDS]");
            return Ok(());
        }
    };
    let text = std::fs::read_to_string(text)?;
    let clock = Clock { start: Instant::now() };
    let (mut best, mut num_ids) = (Duration::MAX, 0);
    for _ in 0..rounds {
        let start = clock.now();
        num_ids = tokenizer.encode_ids(&text, true)?.len();
        best = best.min(clock.now().saturating_sub(start));
    }
    println!("{:.3} MB/s, {num_ids} ids", text.len() as f64 / best.as_secs_f64() / 1e6);
    Ok(())
}

struct Clock {
    start: Instant,
}

impl Clock {
    fn now(&self) -> Duration {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
        let on_core = stat.and_then(|stat| stat.split(' ').next()?.parse().ok());
        on_core.map_or_else(|| self.start.elapsed(), Duration::from_nanos)
    }
}

//! TGI's settings that have no effect here, and those that are refused: what is said of each.

use crate::args::{MootArgs, ServeArgs, UnbuiltArgs};

/// A setting and what is to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remark {
    /// `--flag`, or a variable that has none.
    pub(crate) flag: &'static str,
    /// Why, and what to do instead.
    pub(crate) why: &'static str,
}

/// The remarks of those rows that are set.
fn set(rows: impl IntoIterator<Item = (bool, &'static str, &'static str)>) -> Vec<Remark> {
    rows.into_iter().filter(|row| row.0).map(|(_, flag, why)| Remark { flag, why }).collect()
}

/// Settings that were given and do nothing.
pub(crate) fn without_effect(args: &MootArgs) -> Vec<Remark> {
    const JOIN: &str = "waiting requests join at every step";
    const MEET: &str = "shards of one machine meet in a file of the run's own folder";
    set([
        (args.waiting_served_ratio.is_some(), "--waiting-served-ratio", JOIN),
        (args.max_waiting_tokens.is_some(), "--max-waiting-tokens", JOIN),
        (
            args.max_batch_total_tokens.is_some(),
            "--max-batch-total-tokens",
            "the KV cache bounds a batch; size it with `--kv-cache-bytes` or `--kv-cache-tokens`",
        ),
        (args.cuda_graphs.is_some(), "--cuda-graphs", "steps run without CUDA graphs here"),
        (args.shard_uds_path.is_some(), "--shard-uds-path", "each run makes a folder of its own for its sockets"),
        (args.master_addr.is_some(), "--master-addr", MEET),
        (args.master_port.is_some(), "--master-port", MEET),
        (args.prometheus_port.is_some(), "--prometheus-port", "metrics are at `/metrics` of the main port"),
        (
            args.enable_prefill_logprobs,
            "--enable-prefill-logprobs",
            "log-probabilities of prompts are always available",
        ),
        (args.disable_grammar_support, "--disable-grammar-support", "grammars are not built yet"),
        (args.max_image_fetch_size.is_some(), "--max-image-fetch-size", "models with images are not built yet"),
        (args.usage_stats.is_some(), "--usage-stats", "no usage statistics are ever sent"),
    ])
}

/// Settings that were given and cannot be followed.
pub(crate) fn refused(args: &ServeArgs) -> Vec<Remark> {
    let fp8 = args.workers.kv_cache_dtype.as_deref().is_some_and(|dtype| dtype.starts_with("fp8"));
    let mut remarks = set([(fp8, "--kv-cache-dtype", "fp8 is not built yet; take float16, bfloat16 or float32")]);
    remarks.extend(unbuilt(&args.unbuilt));
    remarks
}

fn unbuilt(args: &UnbuiltArgs) -> Vec<Remark> {
    const ROPE: &str = "only the model's own rotary settings are built; leave it out";
    const NGROK: &str = "tunnels are not built; put a proxy in front";
    const TRACES: &str = "traces are not built yet; leave it out, and look at `/metrics` and `x-request-id`";
    set([
        (
            args.quantize.is_some(),
            "--quantize",
            "quantizing while loading is not built yet; a `.gguf` file that is quantized needs no flag",
        ),
        (
            args.speculate.is_some(),
            "--speculate",
            "speculative decoding is not built yet; leave it out, no text depends on it",
        ),
        (
            args.trust_remote_code,
            "--trust-remote-code",
            "code that comes with a model is never run; leave it out if the model's family is known here",
        ),
        (args.rope_scaling.is_some(), "--rope-scaling", ROPE),
        (args.rope_factor.is_some(), "--rope-factor", ROPE),
        (args.lora_adapters.is_some(), "--lora-adapters", "adapters are not built yet; serve a merged model"),
        (args.otlp_endpoint.is_some(), "--otlp-endpoint", TRACES),
        (args.otlp_service_name.is_some(), "--otlp-service-name", TRACES),
        (args.ngrok, "--ngrok", NGROK),
        (args.ngrok_authtoken.is_some(), "--ngrok-authtoken", NGROK),
        (args.ngrok_edge.is_some(), "--ngrok-edge", NGROK),
    ])
}

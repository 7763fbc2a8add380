//! Every metric of the engine: its name, unit and help text, and the handles the driver writes through.
//!
//! Names that TGI's dashboards read keep TGI's spelling and meaning; what TGI does not measure is `forebay_*`.
//! Labels are few and bounded: `method` is `prefill` or `decode`, `state` and `kind` are fixed lists. Each group has
//! `Meters` of its own over the same metrics, so every metric is a sum over all groups.

use std::time::Duration;

use forebay_scheduler::{Stats, StepPlan};
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

const QUEUE_SIZE: &str = "tgi_queue_size";
const BATCH_CURRENT_SIZE: &str = "tgi_batch_current_size";
const BATCH_CURRENT_MAX_TOKENS: &str = "tgi_batch_current_max_tokens";
const BATCH_MAX_TOTAL_TOKENS: &str = "tgi_batch_max_total_tokens";
const BATCH_NEXT_SIZE: &str = "tgi_batch_next_size";
const BATCH_COUNT: &str = "tgi_batch_inference_count";
const BATCH_SUCCESS: &str = "tgi_batch_inference_success";
const BATCH_FAILURE: &str = "tgi_batch_inference_failure";
const BATCH_DURATION: &str = "tgi_batch_inference_duration";
const BATCH_FORWARD_DURATION: &str = "tgi_batch_forward_duration";
const BATCH_DECODE_DURATION: &str = "tgi_batch_decode_duration";
const BATCH_CONCAT: &str = "tgi_batch_concat";
const BATCH_CONCAT_DURATION: &str = "tgi_batch_concat_duration";
const BATCH_FILTER_DURATION: &str = "tgi_batch_filter_duration";
const REQUEST_SKIPPED_TOKENS: &str = "tgi_request_skipped_tokens";
const REQUEST_QUEUE_DURATION: &str = "tgi_request_queue_duration";
const REQUEST_INFERENCE_DURATION: &str = "tgi_request_inference_duration";
const REQUEST_TIME_PER_TOKEN: &str = "tgi_request_mean_time_per_token_duration";

const TIME_TO_FIRST_TOKEN: &str = "forebay_time_to_first_token_seconds";
const INTER_TOKEN_LATENCY: &str = "forebay_inter_token_latency_seconds";
const PLAN_SECONDS: &str = "forebay_plan_seconds";
const PLAN_TOKENS: &str = "forebay_plan_tokens";
const KV_BLOCKS: &str = "forebay_kv_blocks";
const PLANS_IN_FLIGHT: &str = "forebay_plans_in_flight";
const PREEMPTIONS: &str = "forebay_preemptions_total";
const ROLLBACKS: &str = "forebay_rollbacks_total";
const RESUMPTIONS: &str = "forebay_resumptions_total";
const EVICTIONS: &str = "forebay_prefix_evicted_blocks_total";
const PREFIX_QUERIED: &str = "forebay_prefix_queried_tokens_total";
const PREFIX_HIT: &str = "forebay_prefix_hit_tokens_total";
const GENERATED_TOKENS: &str = "forebay_generated_tokens_total";
const CANCELLED: &str = "forebay_requests_cancelled_total";
const SLOW_READERS: &str = "forebay_slow_readers_total";
const SEQUENCE_ERRORS: &str = "forebay_sequence_errors_total";
const STEP_ERRORS: &str = "forebay_step_errors_total";
const GROUP_READY: &str = "forebay_worker_group_ready";
const GROUP_LOSSES: &str = "forebay_worker_group_losses_total";

/// Tells the recorder what each metric means. The recorder must be installed before the engine starts.
fn describe() {
    describe_gauge!(QUEUE_SIZE, Unit::Count, "Requests that wait for a slot");
    describe_gauge!(BATCH_CURRENT_SIZE, Unit::Count, "Sequences that hold a slot");
    describe_gauge!(BATCH_CURRENT_MAX_TOKENS, Unit::Count, "Tokens that fit the KV blocks which sequences hold");
    describe_gauge!(BATCH_MAX_TOTAL_TOKENS, Unit::Count, "Tokens that fit the whole KV pool");
    describe_histogram!(BATCH_NEXT_SIZE, Unit::Count, "Rows of a step");
    describe_counter!(BATCH_COUNT, Unit::Count, "Steps sent; `prefill` if any row is a prompt chunk");
    describe_counter!(BATCH_SUCCESS, Unit::Count, "Steps answered");
    describe_counter!(BATCH_FAILURE, Unit::Count, "Steps that failed or were lost with their group");
    describe_histogram!(BATCH_DURATION, Unit::Seconds, "From being the oldest step in flight to its result");
    describe_histogram!(BATCH_FORWARD_DURATION, Unit::Seconds, "Forward pass, by the worker's own clock");
    describe_histogram!(BATCH_DECODE_DURATION, Unit::Seconds, "From logits to tokens, by the worker's own clock");
    describe_counter!(BATCH_CONCAT, Unit::Count, "Steps in which prompts were computed beside running sequences");
    describe_histogram!(
        BATCH_CONCAT_DURATION,
        Unit::Seconds,
        "Of each such step, what joining took: none, a plan says it"
    );
    describe_histogram!(BATCH_FILTER_DURATION, Unit::Seconds, "Of each step, what dropping took: none, a plan says it");
    describe_histogram!(REQUEST_SKIPPED_TOKENS, Unit::Count, "Draft tokens that were accepted at once");
    describe_histogram!(REQUEST_QUEUE_DURATION, Unit::Seconds, "From submission to the first plan");
    describe_histogram!(REQUEST_INFERENCE_DURATION, Unit::Seconds, "From the first plan to the last token");
    describe_histogram!(REQUEST_TIME_PER_TOKEN, Unit::Seconds, "Inference time of a request by its tokens");
    describe_histogram!(TIME_TO_FIRST_TOKEN, Unit::Seconds, "From submission to the first token");
    describe_histogram!(INTER_TOKEN_LATENCY, Unit::Seconds, "Between two tokens of one request");
    describe_histogram!(PLAN_SECONDS, Unit::Seconds, "Time the scheduler takes for one plan");
    describe_histogram!(PLAN_TOKENS, Unit::Count, "Tokens a step computes");
    describe_gauge!(KV_BLOCKS, Unit::Count, "KV blocks by state: held, cached, free, fenced");
    describe_gauge!(PLANS_IN_FLIGHT, Unit::Count, "Plans sent and not answered");
    describe_counter!(PREEMPTIONS, Unit::Count, "Sequences that gave their blocks back to run again later");
    describe_counter!(ROLLBACKS, Unit::Count, "Sequences computed again because a step failed");
    describe_counter!(RESUMPTIONS, Unit::Count, "Sequences taken up again after their worker group was lost");
    describe_counter!(EVICTIONS, Unit::Count, "Cached KV blocks given up for new ones");
    describe_counter!(PREFIX_QUERIED, Unit::Count, "Prompt tokens looked up in the prefix tree");
    describe_counter!(PREFIX_HIT, Unit::Count, "Prompt tokens found in the prefix tree");
    describe_counter!(GENERATED_TOKENS, Unit::Count, "Tokens generated");
    describe_counter!(CANCELLED, Unit::Count, "Requests whose reader went away before the end");
    describe_counter!(SLOW_READERS, Unit::Count, "Requests cancelled because their reader lagged behind");
    describe_counter!(SEQUENCE_ERRORS, Unit::Count, "Sequences that the worker failed alone, by kind");
    describe_counter!(STEP_ERRORS, Unit::Count, "Steps that the worker failed as a whole");
    describe_gauge!(GROUP_READY, Unit::Count, "Worker groups that serve");
    describe_counter!(GROUP_LOSSES, Unit::Count, "Times a worker group was lost or failed to come back");
}

/// What a step mostly is; TGI's `method` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// At least one row is a prompt chunk.
    Prefill,
    /// Decodes only.
    Decode,
}

impl Method {
    pub(crate) fn of(plan: &StepPlan) -> Self {
        if plan.rows.len() > plan.num_decodes as usize { Self::Prefill } else { Self::Decode }
    }
}

/// How long the parts of a step took the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepTimings {
    pub(crate) forward: Duration,
    pub(crate) sample: Duration,
}

/// One group's share of a gauge that shows the sum over all groups; it is taken back when dropped.
struct Share {
    gauge: Gauge,
    own: f64,
}

impl Share {
    fn new(gauge: Gauge) -> Self {
        Self { gauge, own: 0.0 }
    }

    fn set(&mut self, value: f64) {
        self.gauge.increment(value - self.own);
        self.own = value;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0.0);
    }
}

/// One group's part of a counter, from a total that begins anew with each scheduler.
struct Tally {
    counter: Counter,
    counted: u64,
}

impl Tally {
    fn new(counter: Counter) -> Self {
        Self { counter, counted: 0 }
    }

    fn advance_to(&mut self, total: u64) {
        self.counter.increment(total.saturating_sub(self.counted));
        self.counted = total;
    }
}

/// The step metrics of one method.
struct StepMeters {
    count: Counter,
    success: Counter,
    failure: Counter,
    size: Histogram,
    tokens: Histogram,
    duration: Histogram,
    forward: Histogram,
    decode: Histogram,
    filter: Histogram,
}

impl StepMeters {
    fn new(method: &'static str) -> Self {
        Self {
            count: counter!(BATCH_COUNT, "method" => method),
            success: counter!(BATCH_SUCCESS, "method" => method),
            failure: counter!(BATCH_FAILURE, "method" => method),
            size: histogram!(BATCH_NEXT_SIZE, "method" => method),
            tokens: histogram!(PLAN_TOKENS, "method" => method),
            duration: histogram!(BATCH_DURATION, "method" => method),
            forward: histogram!(BATCH_FORWARD_DURATION, "method" => method),
            decode: histogram!(BATCH_DECODE_DURATION, "method" => method),
            filter: histogram!(BATCH_FILTER_DURATION, "method" => method),
        }
    }
}

/// Handles made once: looking a metric up by name at every token costs more than the token's event.
pub(crate) struct Meters {
    prefill: StepMeters,
    decode: StepMeters,
    concat: Counter,
    concat_duration: Histogram,
    queue_size: Share,
    batch_size: Share,
    batch_tokens: Share,
    max_tokens: Share,
    blocks_held: Share,
    blocks_cached: Share,
    blocks_free: Share,
    blocks_fenced: Share,
    plans_in_flight: Share,
    preemptions: Tally,
    rollbacks: Tally,
    resumptions: Tally,
    evictions: Tally,
    prefix_queried: Tally,
    prefix_hit: Tally,
    group_ready: Share,
    group_losses: Counter,
    step_errors: Counter,
    /// By the wire's `SequenceErrorKind`.
    sequence_errors: [Counter; 4],
    plan_seconds: Histogram,
    pub(crate) queue_duration: Histogram,
    pub(crate) inference_duration: Histogram,
    pub(crate) time_per_token: Histogram,
    pub(crate) time_to_first_token: Histogram,
    pub(crate) inter_token_latency: Histogram,
    pub(crate) generated_tokens: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) slow_readers: Counter,
}

impl Meters {
    /// Describes and registers everything.
    pub(crate) fn new() -> Self {
        describe();
        // An empty one, for dashboards: there are no draft tokens yet.
        let _ = histogram!(REQUEST_SKIPPED_TOKENS);
        Self {
            prefill: StepMeters::new("prefill"),
            decode: StepMeters::new("decode"),
            // TGI's word for its only reason where long prompts are computed in chunks.
            concat: counter!(BATCH_CONCAT, "reason" => "chunking"),
            concat_duration: histogram!(BATCH_CONCAT_DURATION, "method" => "decode"),
            queue_size: Share::new(gauge!(QUEUE_SIZE)),
            batch_size: Share::new(gauge!(BATCH_CURRENT_SIZE)),
            batch_tokens: Share::new(gauge!(BATCH_CURRENT_MAX_TOKENS)),
            max_tokens: Share::new(gauge!(BATCH_MAX_TOTAL_TOKENS)),
            blocks_held: Share::new(gauge!(KV_BLOCKS, "state" => "held")),
            blocks_cached: Share::new(gauge!(KV_BLOCKS, "state" => "cached")),
            blocks_free: Share::new(gauge!(KV_BLOCKS, "state" => "free")),
            blocks_fenced: Share::new(gauge!(KV_BLOCKS, "state" => "fenced")),
            plans_in_flight: Share::new(gauge!(PLANS_IN_FLIGHT)),
            preemptions: Tally::new(counter!(PREEMPTIONS)),
            rollbacks: Tally::new(counter!(ROLLBACKS)),
            resumptions: Tally::new(counter!(RESUMPTIONS)),
            evictions: Tally::new(counter!(EVICTIONS)),
            prefix_queried: Tally::new(counter!(PREFIX_QUERIED)),
            prefix_hit: Tally::new(counter!(PREFIX_HIT)),
            group_ready: Share::new(gauge!(GROUP_READY)),
            group_losses: counter!(GROUP_LOSSES),
            step_errors: counter!(STEP_ERRORS),
            sequence_errors: ["unspecified", "unsupported", "numerical", "grammar"]
                .map(|kind| counter!(SEQUENCE_ERRORS, "kind" => kind)),
            plan_seconds: histogram!(PLAN_SECONDS),
            queue_duration: histogram!(REQUEST_QUEUE_DURATION),
            inference_duration: histogram!(REQUEST_INFERENCE_DURATION),
            time_per_token: histogram!(REQUEST_TIME_PER_TOKEN),
            time_to_first_token: histogram!(TIME_TO_FIRST_TOKEN),
            inter_token_latency: histogram!(INTER_TOKEN_LATENCY),
            generated_tokens: counter!(GENERATED_TOKENS),
            cancelled: counter!(CANCELLED),
            slow_readers: counter!(SLOW_READERS),
        }
    }

    fn of(&self, method: Method) -> &StepMeters {
        match method {
            Method::Prefill => &self.prefill,
            Method::Decode => &self.decode,
        }
    }

    /// A plan was made in `took` and sent.
    pub(crate) fn step_sent(&self, plan: &StepPlan, took: Duration) {
        let meters = self.of(Method::of(plan));
        meters.count.increment(1);
        meters.size.record(plan.rows.len() as f64);
        meters.tokens.record(f64::from(plan.rows.iter().map(|row| row.num_tokens).sum::<u32>()));
        meters.filter.record(Duration::ZERO);
        if plan.num_decodes > 0 && Method::of(plan) == Method::Prefill {
            self.concat.increment(1);
            self.concat_duration.record(Duration::ZERO);
        }
        self.plan_seconds.record(took);
    }

    /// Its result arrived; `timings` by the worker's clock.
    pub(crate) fn step_answered(&self, method: Method, took: Duration, timings: Option<StepTimings>) {
        let meters = self.of(method);
        meters.success.increment(1);
        meters.duration.record(took);
        if let Some(StepTimings { forward, sample }) = timings {
            meters.forward.record(forward);
            meters.decode.record(sample);
        }
    }

    /// It failed as a whole, or was never answered.
    pub(crate) fn step_failed(&self, method: Method) {
        self.of(method).failure.increment(1);
    }

    /// The worker reported that a step failed as a whole.
    pub(crate) fn step_error(&self) {
        self.step_errors.increment(1);
    }

    /// The worker failed one sequence; `kind` is the wire's number of it.
    pub(crate) fn sequence_error(&self, kind: i32) {
        let unspecified = &self.sequence_errors[0];
        usize::try_from(kind).ok().and_then(|kind| self.sequence_errors.get(kind)).unwrap_or(unspecified).increment(1);
    }

    /// The pool holds so many tokens.
    pub(crate) fn pool_sized(&mut self, pool_tokens: u64) {
        self.max_tokens.set(pool_tokens as f64);
    }

    /// The group serves.
    pub(crate) fn group_ready(&mut self) {
        self.group_ready.set(1.0);
    }

    /// The group does not serve any more.
    pub(crate) fn group_gone(&mut self) {
        self.group_ready.set(0.0);
    }

    /// The group was lost.
    pub(crate) fn group_lost(&mut self) {
        self.group_gone();
        self.group_losses.increment(1);
    }

    /// The scheduler's counts; its totals fall only when a new scheduler has taken its place.
    pub(crate) fn stats(&mut self, stats: &Stats, block_size: u32) {
        self.queue_size.set(f64::from(stats.queued));
        self.batch_size.set(f64::from(stats.running));
        self.batch_tokens.set(f64::from(stats.blocks_held) * f64::from(block_size));
        self.blocks_held.set(f64::from(stats.blocks_held));
        self.blocks_cached.set(f64::from(stats.blocks_cached));
        self.blocks_free.set(f64::from(stats.blocks_free));
        self.blocks_fenced.set(f64::from(stats.blocks_fenced));
        self.plans_in_flight.set(f64::from(stats.plans_in_flight));
        self.preemptions.advance_to(stats.preemptions);
        self.rollbacks.advance_to(stats.rollbacks);
        self.resumptions.advance_to(stats.resumptions);
        self.evictions.advance_to(stats.evictions);
        self.prefix_queried.advance_to(stats.prefix_queried_tokens);
        self.prefix_hit.advance_to(stats.prefix_hit_tokens);
    }
}

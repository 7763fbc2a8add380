//! Variables beside those of the flags: what SageMaker and Vertex AI set, which GPUs may be used, and those that TGI reads
//! without having a flag for them.

use std::ffi::{OsStr, OsString};
use std::net::IpAddr;

use clap::{Arg, Command};

use crate::compatibility::Remark;

/// How a variable is looked up: the process's own in `main`, a table in tests.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A flag of `serve`, its own variable, and the one that counts where its own is not set.
pub(crate) const OTHER_NAMES: &[(&str, &str, &str)] = &[
    ("model_id", "MODEL_ID", SAGEMAKER_MODEL),
    ("revision", "REVISION", "HF_MODEL_REVISION"),
    ("num_shard", "NUM_SHARD", "SM_NUM_GPUS"),
    ("quantize", "QUANTIZE", "HF_MODEL_QUANTIZE"),
    ("trust_remote_code", "TRUST_REMOTE_CODE", "HF_MODEL_TRUST_REMOTE_CODE"),
];

const SAGEMAKER_MODEL: &str = "HF_MODEL_ID";
/// Where SageMaker sends its requests, whatever port an image has in its variables.
const SAGEMAKER_PORT: &str = "8080";
/// Vertex AI's word for the port. It comes before `PORT`, which an image may have set.
const VERTEX_PORT: &str = "AIP_HTTP_PORT";

/// TGI's variables without a flag that do nothing here, and why.
pub(crate) const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("ATTENTION", "the backend is chosen by the device, or by `--attention`"),
    ("DISABLE_EXLLAMA", KERNELS),
    ("EXLLAMA_VERSION", KERNELS),
    ("PREFILL_CHUNKING", "long prompts are always computed in chunks, of up to `--max-batch-prefill-tokens`"),
    ("ROCM_USE_CUSTOM_PAGED_ATTN", KERNELS),
    ("ROCM_USE_FLASH_ATTN_V2_TRITON", KERNELS),
    ("ROCM_USE_SKINNY_GEMM", KERNELS),
    ("TGI_WIGGLE_ROOM", "the KV cache is sized by `--cuda-memory-fraction`, `--kv-cache-bytes` or `--kv-cache-tokens`"),
    ("USE_CUTLASS_W8A8", KERNELS),
    ("USE_FLASH_ATTENTION", "the backend is chosen by the device, or by `--attention`"),
    ("XPU_MEMORY_FRACTION", XPU),
    ("ZE_AFFINITY_MASK", XPU),
];
const KERNELS: &str =
    "kernels are chosen by the device and the file; `--disable-custom-kernels` takes torch's operators";
const XPU: &str = "Intel's GPUs are not built yet; the model runs where `--device` says";

/// What `serve` reads beside its flags.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// `PATH`.
    pub(crate) search_path: Option<OsString>,
    /// How many GPUs the variables name, if they name them.
    pub(crate) num_visible_gpus: Option<u32>,
    /// Variables that are set and do nothing.
    pub(crate) without_effect: Vec<Remark>,
}

impl Surroundings {
    pub(crate) fn read(lookup: Lookup<'_>) -> Self {
        let is_set = |name: &str| lookup(name).is_some_and(|value| !value.is_empty());
        let rows = WITHOUT_EFFECT.iter().filter(|(name, _)| is_set(name));
        Self {
            search_path: lookup("PATH"),
            num_visible_gpus: ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"]
                .iter()
                .find_map(|name| count_devices(lookup(name)?.to_str()?)),
            without_effect: rows.map(|&(flag, why)| Remark { flag, why }).collect(),
        }
    }
}

/// `0,1` are two. Words such as `all` and `void` name none.
fn count_devices(list: &str) -> Option<u32> {
    let names = list.split(',').map(str::trim);
    let is_device = |name: &str| name.starts_with(|first: char| first.is_ascii_digit()) || name.starts_with("GPU-");
    names.clone().all(is_device).then(|| names.count() as u32)
}

/// What becomes of a flag's declaration.
type Change = (&'static str, Box<dyn FnOnce(Arg) -> Arg>);

/// Lets flags of `serve` read the variables that hold here. What is not changed keeps its place in the reference.
pub(crate) fn bind(command: Command, lookup: Lookup<'_>) -> Command {
    let changes = changes(lookup);
    if changes.is_empty() {
        return command;
    }
    command.mut_subcommand("serve", |serve| {
        changes.into_iter().fold(serve, |serve, (flag, change)| serve.mut_arg(flag, change))
    })
}

fn changes(lookup: Lookup<'_>) -> Vec<Change> {
    let is_set = |name: &str| lookup(name).is_some();
    let reads = |variable: &'static str| -> Box<dyn FnOnce(Arg) -> Arg> { Box::new(move |arg| arg.env(variable)) };
    let others = OTHER_NAMES.iter().filter(|(_, own, other)| !is_set(own) && is_set(other));
    let mut changes: Vec<Change> = others.map(|&(flag, _, other)| (flag, reads(other))).collect();
    if is_set(VERTEX_PORT) {
        changes.push(("port", reads(VERTEX_PORT)));
    } else if is_set(SAGEMAKER_MODEL) && !is_set("MODEL_ID") {
        let port = |arg: Arg| arg.env(None::<&'static str>).default_value(SAGEMAKER_PORT);
        changes.push(("port", Box::new(port)));
    }
    if lookup("HOSTNAME").is_some_and(|name| !is_address(&name)) {
        changes.push(("hostname", Box::new(|arg: Arg| arg.env(None::<&'static str>))));
    }
    changes
}

fn is_address(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(table: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| table.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    }

    /// The variable that a flag reads, and its default.
    fn reads(flag: &str, table: &'static [(&'static str, &'static str)]) -> (Option<String>, Option<String>) {
        let command = crate::args::command(&lookup(table));
        let serve = command.find_subcommand("serve").unwrap();
        let arg = serve.get_arguments().find(|arg| arg.get_id() == flag).unwrap();
        let text = |value: &OsStr| value.to_str().unwrap().to_owned();
        (arg.get_env().map(text), arg.get_default_values().first().map(|value| text(value)))
    }

    #[test]
    fn the_hostname_variable_counts_only_when_it_holds_an_address() {
        for (table, counts) in [
            (&[("HOSTNAME", "127.0.0.1")], true),
            (&[("HOSTNAME", "::1")], true),
            (&[("HOSTNAME", "4f1c2ab")], false),
            (&[("HOSTNAME", "localhost")], false),
        ] {
            assert_eq!(reads("hostname", table).0.is_some(), counts, "{table:?}");
        }
    }

    #[test]
    fn sagemakers_variables_count_where_the_flags_own_are_not_set() {
        const SET: &[(&str, &str)] = &[("HF_MODEL_ID", "a/b"), ("SM_NUM_GPUS", "2"), ("PORT", "80")];
        const BOTH: &[(&str, &str)] = &[("HF_MODEL_ID", "a/b"), ("MODEL_ID", "c/d")];
        assert_eq!(reads("model_id", SET).0.unwrap(), "HF_MODEL_ID");
        assert_eq!(reads("num_shard", SET).0.unwrap(), "SM_NUM_GPUS");
        assert_eq!(reads("revision", SET).0.unwrap(), "REVISION");
        assert_eq!(reads("port", SET), (None, Some("8080".to_owned())));
        assert_eq!(reads("model_id", BOTH).0.unwrap(), "MODEL_ID");
        assert_eq!(reads("port", BOTH), (Some("PORT".to_owned()), Some("3000".to_owned())));
    }

    #[test]
    fn vertex_names_the_port_before_the_image_does() {
        assert_eq!(reads("port", &[("AIP_HTTP_PORT", "9000"), ("PORT", "80")]).0.unwrap(), "AIP_HTTP_PORT");
    }

    #[test]
    fn gpus_are_counted_where_they_are_named() {
        for (value, number) in [
            ("0", Some(1)),
            ("0,1", Some(2)),
            ("GPU-8a, GPU-8b,GPU-8c", Some(3)),
            ("all", None),
            ("void", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(count_devices(value), number, "{value}");
        }
        let surroundings = Surroundings::read(&lookup(&[("NVIDIA_VISIBLE_DEVICES", "0,1")]));
        assert_eq!(surroundings.num_visible_gpus, Some(2));
        let surroundings =
            Surroundings::read(&lookup(&[("CUDA_VISIBLE_DEVICES", "3"), ("NVIDIA_VISIBLE_DEVICES", "0,1")]));
        assert_eq!(surroundings.num_visible_gpus, Some(1));
    }

    #[test]
    fn variables_without_effect_are_named_once_each() {
        let surroundings = Surroundings::read(&lookup(&[("ATTENTION", "paged"), ("USE_FLASH_ATTENTION", "")]));
        let names: Vec<&str> = surroundings.without_effect.iter().map(|remark| remark.flag).collect();
        assert_eq!(names, ["ATTENTION"]);
    }
}

//! TGI's own routes, as its clients know them: `huggingface_hub`, `text_generation`, `LangChain`.

pub(crate) mod chat_tokenize;
pub(crate) mod generate;
pub(crate) mod generate_stream;
pub(crate) mod info;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod root;
mod schemas;
pub(crate) mod tokenize;

pub(crate) use schemas::schemas;

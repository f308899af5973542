"""Arguments of transformers that scripts pass: those that hold here anyway, and what replaces the others."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, TypeAlias

from ..errors import InputError

Table: TypeAlias = dict[str, tuple[tuple[object, ...], str]]  # name -> values that hold anyway, and what to do

OMIT_PADDING = "omit it: batches are packed, and padded() on a batch pads on the right"
EDIT_CONFIG = "edit config.json in a copy of the checkpoint's folder"
EDIT_TOKENIZER = "edit tokenizer_config.json in a copy of the checkpoint's folder"
INT8 = 'pass dtype="int8"'
NO_DOWNLOAD_OPTIONS = "omit it, or download the folder with huggingface_hub and pass its path"
ONE_DEVICE = "pass device=: the model runs on one device"
RETURNS_TENSOR = "omit it: a model returns a tensor; trace() records hidden states and attention"
TEXT_ONLY = "omit it: every task takes text"
OF_TRAINING = "load the model with from_pretrained, change and train it, and pass model=, tokenizer="
CONFIG_KEYS = (  # of config.json
    "activation attention_dropout dim dropout hidden_dim initializer_range label2id max_position_embeddings "
    "n_heads n_layers pad_token_id qa_dropout seq_classif_dropout sinusoidal_pos_embds tie_word_embeddings "
    "vocab_size"
)
TOKENIZER_KEYS = (  # of tokenizer_config.json
    "add_prefix_space clean_up_tokenization_spaces cls_token do_basic_tokenize do_lower_case mask_token "
    "never_split pad_token sep_token split_special_tokens strip_accents tokenize_chinese_chars unk_token"
)

LOADING: Table = {  # of from_pretrained, of models and tokenizers
    "adapter_kwargs": (({},), "load the adapter with PeftModel.from_pretrained, and pass what it merges"),
    "adapter_name": ((), "load the adapter with PeftModel.from_pretrained, and pass what it merges"),
    "additional_special_tokens": (([],), "call add_tokens(tokens, special_tokens=True) on the tokenizer"),
    "attn_implementation": (("sdpa",), "omit it, or pass a model.with_ops(attention=...)"),
    "cache_dir": ((), "set the environment variable HF_HUB_CACHE"),
    "code_revision": ((), "omit it: the code of a checkpoint never runs"),
    "commit_hash": ((), "pass revision="),
    "config": ((), EDIT_CONFIG),
    "extra_special_tokens": (([], {}), "call add_tokens(tokens, special_tokens=True) on the tokenizer"),
    "force_download": ((False,), "delete the repository from the Hub's cache: hf cache rm"),
    "framework": (("pt",), "omit it: minidistil runs on PyTorch"),
    "from_flax": ((False,), "convert the checkpoint to safetensors"),
    "from_tf": ((False,), "convert the checkpoint to safetensors"),
    "gguf_file": ((), "convert the checkpoint to safetensors"),
    "id2label": ((), "set it after loading: model.config = dataclasses.replace(model.config, id2label=...)"),
    "ignore_mismatched_sizes": ((False,), "pass new_head=True, with num_labels= for another number of labels"),
    "key_mapping": (({},), "rename the tensors in the file"),
    "load_in_4bit": ((False,), INT8),
    "load_in_8bit": ((False,), INT8),
    "low_cpu_mem_usage": ((True, False), "omit it: weights are memory-mapped"),
    "max_memory": (({},), ONE_DEVICE),
    "mirror": ((), "set the environment variable HF_ENDPOINT"),
    "model_max_length": ((), "pass max_length= in the call, or set max_length of the tokenizer"),
    "offload_buffers": ((False,), ONE_DEVICE),
    "offload_folder": ((), ONE_DEVICE),
    "output_attentions": ((False,), RETURNS_TENSOR),
    "output_hidden_states": ((False,), RETURNS_TENSOR),
    "output_loading_info": ((False,), "omit it: tensors that are missing or unexpected are errors"),
    "padding_side": (("right",), OMIT_PADDING),
    "problem_type": (
        (),
        "set it after loading: model.config = dataclasses.replace(model.config, problem_type=...)",
    ),
    "proxies": (({},), "set the environment variable HTTPS_PROXY"),
    "quantization_config": ((), INT8),
    "resume_download": ((True, False), "omit it: huggingface_hub resumes downloads"),
    "return_dict": ((), RETURNS_TENSOR),
    "state_dict": ((), "call load_state_dict on the model"),
    "subfolder": (("",), "pass the path of that folder"),
    "torchscript": ((False,), "omit it, and use torch.compile"),
    "trust_remote_code": ((True, False), "omit it: the code of a checkpoint never runs"),
    "truncation_side": ((), "set truncation_side of the tokenizer"),
    "use_auth_token": ((), "pass token="),
    "use_cache": ((True, False), "omit it: an encoder has no cache"),
    "use_fast": ((True,), "omit it: every tokenizer is a fast one"),
    "use_flash_attention_2": ((False,), "omit it, or pass a model.with_ops(attention=...)"),
    "use_safetensors": (
        (True,),
        "omit it: model.safetensors is preferred, and a .bin is read without unpickling it",
    ),
    "variant": ((), NO_DOWNLOAD_OPTIONS),
    "weights_only": ((True,), "omit it: no code in the file runs"),
}
LOADING |= dict.fromkeys(CONFIG_KEYS.split(), ((), EDIT_CONFIG))
LOADING |= dict.fromkeys(TOKENIZER_KEYS.split(), ((), EDIT_TOKENIZER))
PIPELINES: Table = LOADING | {  # of pipeline() and of a call
    "add_special_tokens": ((True,), "omit it: the model needs [CLS] and [SEP]"),
    "args_parser": ((), "pass the arguments of the task"),
    "binary_output": ((False,), "write the answers yourself"),
    "data": ((), "pass it as the first argument"),
    "feature_extractor": ((), TEXT_ONLY),
    "grouped_entities": ((), 'pass aggregation_strategy="simple"'),
    "ignore_subwords": ((), 'pass aggregation_strategy="first"'),
    "image_processor": ((), TEXT_ONLY),
    "max_length": ((), "pass it in tokenizer_kwargs= or tokenize_kwargs=, or set pipe.tokenizer.max_length"),
    "modelcard": ((), "omit it"),
    "multi_class": ((), "pass multi_label="),
    "new_head": ((False,), OF_TRAINING),
    "num_labels": ((), OF_TRAINING),
    "num_workers": ((0, 1), "omit it: the tokenizer runs in threads, and texts are batched by length"),
    "offset_mapping": ((), "omit it: the tokenizer returns the offsets of every token"),
    "ops": ((), OF_TRAINING.replace("change and train it", "with ops=")),
    "padding": ((True, False, "longest", "max_length"), OMIT_PADDING),
    "pad_to_multiple_of": ((), OMIT_PADDING),
    "pipeline_class": ((), "pass the task, and subclass its pipeline"),
    "processor": ((), TEXT_ONLY),
    "return_all_scores": ((False,), "pass top_k=None for all labels, or omit it for the best"),
    "return_attention_mask": ((True, False), "omit it: batches are packed"),
    "return_tensors": ((), "omit it, or pass return_tensors=True to feature-extraction"),
    "return_token_type_ids": ((False,), "omit it: DistilBERT has one segment"),
    "tokenize_kwargs": (({},), "pass truncation= and max_length=, or tokenizer_kwargs= to fill-mask"),
    "tokenizer_kwargs": (({},), "pass truncation= and max_length=, or tokenize_kwargs= to feature-extraction"),
    "topk": ((), "pass top_k="),
    "truncation": ((), "omit it where texts are truncated anyway, or pass tokenizer_kwargs= to fill-mask"),
    "video_processor": ((), TEXT_ONLY),
    "X": ((), "pass it as the first argument"),
}
PADDED = "omit it, and call padded() on the batch for input_ids and attention_mask"
TOKENIZING: Table = {  # of a call of a tokenizer, and of its encode()
    "add_special_tokens": ((True,), "call backend.encode(text, add_special_tokens=False)"),
    "is_split_into_words": ((False,), "call encodings(words=True)"),
    "pad_to_multiple_of": ((), PADDED),
    "padding": ((False, "do_not_pad"), PADDED),
    "padding_side": (("right",), OMIT_PADDING),
    "return_attention_mask": ((), PADDED),
    "return_length": ((False,), "omit it: the batch has layout.lengths"),
    "return_offsets_mapping": ((False,), "call encodings(), whose elements have offsets"),
    "return_overflowing_tokens": ((False,), "call encodings(stride=...), whose elements have overflowing"),
    "return_special_tokens_mask": ((False,), "call encodings(), whose elements have special_tokens_mask"),
    "return_tensors": ((), PADDED),
    "return_token_type_ids": ((False,), "omit it: DistilBERT has one segment"),
    "stride": ((0,), "call encodings(stride=...), whose elements have overflowing"),
    "text": ((), "pass it as the first argument"),
    "text_pair": ((), "pass pairs="),
    "text_pair_target": ((), "omit it: DistilBERT has no decoder"),
    "text_target": ((), "omit it: DistilBERT has no decoder"),
    "verbose": ((True, False), "omit it"),
}
EMBEDDING: Table = {  # of encode() in sentence-transformers
    "chunk_size": ((), "omit it: encode() runs in one process"),
    "pool": ((), "omit it: encode() runs in one process"),
    "processing_kwargs": (({},), "omit it, or pass max_length= to the pipeline"),
    "sentences": ((), "pass it as the first argument"),
    "task": ((), "omit it, or pass prompt_name="),
}
RENAMED = {"torch_dtype": "dtype", "device_map": "device"}
ENCODE = "call the tokenizer, or encodings() for offsets and masks"
TOKENIZER_ATTRIBUTES = {
    "add_special_tokens": "call add_tokens(tokens, special_tokens=True)",
    "added_tokens_decoder": "call backend.get_added_tokens_decoder()",
    "added_tokens_encoder": "call get_added_vocab()",
    "additional_special_tokens": "read all_special_tokens",
    "apply_chat_template": "format the text yourself: DistilBERT has no chat template",
    "backend_tokenizer": "read backend",
    "batch_encode_plus": ENCODE,
    "bos_token": "read cls_token",
    "bos_token_id": "read cls_token_id",
    "build_inputs_with_special_tokens": ENCODE,
    "clean_up_tokenization": "call decode(ids, clean_up_tokenization_spaces=True)",
    "clean_up_tokenization_spaces": 'read settings["clean_up_tokenization_spaces"]',
    "convert_added_tokens": "call get_added_vocab()",
    "create_token_type_ids_from_sequences": "omit it: DistilBERT has one segment",
    "do_lower_case": 'read settings["do_lower_case"]',
    "encode_plus": ENCODE,
    "eos_token": "read sep_token",
    "eos_token_id": "read sep_token_id",
    "extra_special_tokens": "read all_special_tokens",
    "get_special_tokens_mask": ENCODE,
    "init_kwargs": "read settings",
    "max_len_single_sentence": "subtract num_special_tokens_to_add() from max_length",
    "max_len_sentences_pair": "subtract num_special_tokens_to_add(True) from max_length",
    "model_input_names": "omit it: padded() on a batch returns input_ids and attention_mask",
    "name_or_path": "keep the name that you loaded",
    "pad": "call the tokenizer with all texts, and padded() on the batch",
    "pad_token_type_id": "omit it: DistilBERT has one segment",
    "prepare_for_model": ENCODE,
    "push_to_hub": "call save_pretrained(folder), and upload it with huggingface_hub",
    "save_vocabulary": "call save_pretrained(folder)",
    "train_new_from_iterator": "call backend.train_from_iterator",
}
PIPELINE_ATTRIBUTES = {
    "auto_model": "read model",
    "batch_size": 'read defaults["batch_size"]',
    "binary_output": "write the answers yourself",
    "default_prompt_name": "read prompt, its text",
    "device_placement": "omit it: inputs are moved to the model's device",
    "encode_multi_process": "call encode(), which runs in one process",
    "ensure_tensor_on_device": "omit it: inputs are moved to the model's device",
    "feature_extractor": TEXT_ONLY,
    "forward": "call the model: pipe.model(batch)",
    "framework": "omit it: minidistil runs on PyTorch",
    "get_sentence_features": "call pipe.tokenizer",
    "half": 'pass dtype="float16" to pipeline()',
    "image_processor": TEXT_ONLY,
    "iterate": "call the pipeline with an iterator",
    "postprocess": "subclass the pipeline",
    "preprocess": "call the tokenizer: pipe.tokenizer(texts)",
    "push_to_hub": "call save_pretrained(folder), and upload it with huggingface_hub",
    "save": "call save_pretrained(folder)",
    "similarity": "multiply normalized vectors: a @ b.T",
    "similarity_fn_name": "read config_sentence_transformers.json in the checkpoint",
    "similarity_pairwise": "multiply normalized vectors, and add up each row: (a * b).sum(-1)",
    "start_multi_process_pool": "omit it: encode() runs in one process",
    "to": "pass device= to pipeline()",
    "tokenize": "call pipe.tokenizer",
    "torch_dtype": "read dtype",
    "truncate_dim": 'read defaults["truncate_dim"]',
}


def without_transformers_arguments(
    arguments: Mapping[str, Any], table: Table = PIPELINES, own: Container[str] = ()
) -> dict[str, Any]:
    """Return the arguments without those that hold here anyway. Raises InputError that names a replacement.

    own: names of arguments that the function has itself.
    """
    kept = {}
    for name, value in arguments.items():
        if name in own or name not in table:
            kept[name] = value
            continue
        values, replacement = table[name]
        if value is not None and not any(isinstance(value, type(held)) and value == held for held in values):
            raise InputError(f"{name} is {value!r:.60}, which has no meaning here: {replacement}", subject=name)
    return kept


def refuse_arguments(function: str, arguments: Mapping[str, Any], table: Table) -> None:
    """Raise InputError for an argument that has a replacement, and TypeError for an unknown one."""
    if unknown := without_transformers_arguments(arguments, table):
        raise TypeError(f"{function}() got an unexpected keyword argument {min(unknown)!r}")


def missing_attribute(owner: object, name: str, replacements: Mapping[str, str]) -> AttributeError:
    """Return the error for an attribute that an object lacks, with its replacement."""
    hint = f": {replacements[name]}" if name in replacements else ""
    return AttributeError(f"{type(owner).__name__!r} object has no attribute {name!r}{hint}", name=name, obj=owner)


def merged(*arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return arguments of several sources as one dict, under the names that they have here."""
    result: dict[str, Any] = {}
    for source in arguments:
        if not isinstance(source, Mapping | None):
            raise InputError(f"model_kwargs is {type(source).__name__}: expected a dict", subject="model_kwargs")
        for name, value in (source or {}).items():
            if name in RENAMED and value is None:
                continue
            value = _device(value) if name == "device_map" else value
            name = RENAMED.get(name, name)
            if name in result:
                raise InputError(f"{name} is passed twice: pass it once", subject=name)
            result[name] = value
    return result


def _device(device_map: Any) -> Any:
    """Return the device of a device_map that names one device; "auto" is CUDA if there is one."""
    if isinstance(device_map, Mapping):
        if device_map.keys() != {""}:
            raise InputError(f"device_map is {device_map!r:.60}: {ONE_DEVICE}", subject="device_map")
        device_map = device_map[""]
    return "auto" if device_map in ("balanced", "balanced_low_0", "sequential") else device_map


def resolved(dtype: Any, device: Any, other: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return dtype and device of `from_pretrained`, which its other arguments may name differently."""
    named = {"dtype": dtype, "device": device}
    passed = merged({name: value for name, value in named.items() if value is not None}, other)
    dtype, device = passed.pop("dtype", None), passed.pop("device", None)
    refuse_arguments("from_pretrained", passed, LOADING)
    return dtype, device

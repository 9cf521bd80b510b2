"""Chat templates that behave like those of the model families, written anew and small."""

QWEN3 = (
    "{% for m in messages %}"
    "{% set text = m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' else m.content %}"
    "<|im_start|>{{ m.role }}\n{{ text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""The answer opens its block; ``enable_thinking = false`` writes an empty block into the prompt."""
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}{% endif %}"
    "{% if m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
"""The prompt opens the block."""
SMOLLM3 = (
    "{% set mode = '/no_think' if enable_thinking is defined and not enable_thinking else '/think' %}"
    "<|im_start|>system\n## Metadata\nToday Date: {{ strftime_now('%d %B %Y') }}\nReasoning Mode: {{ mode }}\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content.replace('/no_think', '').replace('/think', '') }}{% endif %}<|im_end|>\n"
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if mode == '/no_think' %}<think>\n\n</think>\n{% endif %}{% endif %}"
)
"""Writes the date; a mark in the system text is taken out of it."""
GPT_OSS = (
    '<|start|>system<|message|>Current date: {{ strftime_now("%Y-%m-%d") }}\n\n'
    "Reasoning: {{ reasoning_effort or 'medium' }}\n# Valid channels: analysis, final<|end|>"
    "{% for m in messages %}"
    "{% if m.role == 'system' %}<|start|>developer<|message|># Instructions\n\n{{ m.content }}<|end|>"
    "{% elif m.role == 'user' %}<|start|>user<|message|>{{ m.content }}<|end|>"
    "{% elif loop.last and not add_generation_prompt %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>"
    "{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""Harmony: the answer names its channels; ``<|end|>`` ends a channel, ``<|return|>`` the turn."""
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""No system role; turns end with another token than end-of-text."""
LLAMA3 = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}{% endif %}<|eot_id|>"
    "{% for m in messages if m.role != 'system' %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""Writes the date, by a name of its own or by the clock."""
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}"
    "[SYSTEM_PROMPT]Think first: [THINK]your thoughts[/THINK]Then answer.[/SYSTEM_PROMPT]{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
    "{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Magistral: the answer thinks between ``[THINK]`` and ``[/THINK]``, which are special tokens."""

TEMPLATES = {
    "qwen3": QWEN3,
    "deepseek_r1": DEEPSEEK_R1,
    "smollm3": SMOLLM3,
    "gpt_oss": GPT_OSS,
    "gemma": GEMMA,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
}
SPECIAL = {
    "qwen3": ["<|im_start|>", "<|im_end|>"],
    "deepseek_r1": ["<|User|>", "<|Assistant|>"],
    "smollm3": ["<|im_start|>", "<|im_end|>"],
    "gpt_oss": ["<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "mistral": ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"],
}
"""Special tokens of each family: decoding without special tokens drops them."""
PLAIN = {"qwen3": ["<think>", "</think>"], "deepseek_r1": ["<think>", "</think>"], "smollm3": ["<think>", "</think>"]}
"""Added tokens that are text, not special."""

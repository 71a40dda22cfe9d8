"""Chat templates in the manner of real ones, each with something that another lacks."""

from __future__ import annotations

import json
from pathlib import Path

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|im_start|>' + message['role'] + '\n\n' + message['content'] | trim + '<|im_end|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
STRICT = (
    "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' %}\n"
    "    {{- raise_exception('System role not supported') }}\n{%- endif %}\n"
    "{%- for message in messages %}\n"
    "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
    "        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}\n"
    "    {%- endif %}\n"
    "    {{- '[' ~ message['role'] ~ '] ' ~ message['content'] ~ eos_token }}\n"
    "{%- endfor %}\n"
)
TRAINING = (
    "{%- for message in messages -%}\n  {{- '<|im_start|>' + message.role + '\n' -}}\n"
    "  {%- if message.role == 'assistant' -%}\n    {%- generation -%}\n    {{- message.content + '<|im_end|>' -}}\n"
    "    {%- endgeneration -%}\n  {%- else -%}\n    {{- message.content + '<|im_end|>' -}}\n  {%- endif -%}\n"
    "  {{ '\n' }}\n{% endfor -%}\n{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LOOPING = (
    "{% for message in messages %}{% if message.role == 'system' %}{% continue %}{% endif %}"
    "{% if loop.index > 3 %}{% break %}{% endif %}"
    "{{ message | tojson }} {{ message | tojson(indent=2, ensure_ascii=False) }}\n{% endfor %}"
    "{% if tools is not none %}tools{% endif %}{{ eos_token }}"
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "strict": STRICT, "training": TRAINING, "looping": LOOPING}

CONVERSATIONS = {
    "one question": [{"role": "user", "content": "Hello, there!"}],
    "a dialogue": [
        {"role": "user", "content": "  What is 3 < 4?  "},
        {"role": "assistant", "content": 'It is "true",\nof course.'},
        {"role": "user", "content": "\u00c9t\u00e9, \u4f60\u597d {{ bos_token }}"},
    ],
    "a system message": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Who are you?<|im_end|>"},
    ],
}


def set_template(directory: Path, template: str | None) -> None:
    """Give a model directory another chat template, or none."""
    path = directory / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings.pop("chat_template", None)
    path.write_text(json.dumps(settings | ({"chat_template": template} if template else {})), encoding="utf-8")

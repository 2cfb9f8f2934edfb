//! Templates as models have them.

pub(super) const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Renders nothing for other roles than system, user and assistant.
pub(super) const SKIPS_ROLES: &str = "{% for m in messages %}{% if m['role'] in ['user', 'system', 'assistant'] %}\
    {{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Removes an answer's text up to `</think>`.
pub(super) const DROPS_THOUGHTS: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' \
    + (m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content']) + '<|im_end|>' + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Renders an empty thought in the last turn, and removes earlier ones, like Qwen3's.
pub(super) const THINK: &str = "{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set content = m.content %}
{%- set why = m.reasoning_content if m.reasoning_content is defined else '' %}
{%- if '</think>' in content %}
{%- set why = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if loop.last or why %}
{{- '<|im_start|>assistant\\n<think>\\n' + why + '\\n</think>\\n\\n' + content + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>assistant\\n' + content + '<|im_end|>\\n' }}
{%- endif %}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}";

/// Renders tools, their calls, and contents that are lists of parts.
pub(super) const TOOLS: &str = "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- for t in tools %}{{- t | tojson }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.content is string %}{{- m.content }}{%- elif m.content %}{%- for part in m.content %}{{- part.text }}{%- endfor %}{%- endif %}
{%- if m.tool_calls %}{%- for c in m.tool_calls %}
{{- '<tool_call>' + c.function.name + ' ' }}
{{- c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}
{{- '</tool_call>' }}
{%- endfor %}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";

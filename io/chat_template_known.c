/* chat_template_known.c: common forms of conversation as short templates.  Names as in llama.cpp's --chat-template.
 * A system message that a form has no place for stands in front of the first user's words. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "io/chat_template.h"

/* Sets `lead` to the system message, which goes into the first user's turn. */
#define LEAD                                                                  \
    "{% set ns = namespace(lead='') %}"                                       \
    "{% for m in messages %}"                                                 \
    "{% if m.role == 'system' %}{% set ns.lead = ns.lead ~ m.content ~ '\\n\\n' %}"

static const struct {
    const char *name, *source;
} known[] = {
    {"chatml", "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}{% endfor %}"
               "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"},
    {"llama2", "{% set ns = namespace(lead='') %}"
               "{% for m in messages %}"
               "{% if m.role == 'system' %}{% set ns.lead = '<<SYS>>\\n' ~ m.content | trim ~ '\\n<</SYS>>\\n\\n' %}"
               "{% elif m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ ns.lead ~ m.content | trim ~ ' [/INST]' }}{% set ns.lead = '' %}"
               "{% else %}{{ ' ' ~ m.content | trim ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"},
    {"llama3", "{{ bos_token }}{% for m in messages %}"
               "{{ '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\\n\\n' ~ m.content | trim ~ '<|eot_id|>' }}{% endfor %}"
               "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"},
    {"mistral-v1", "{{ bos_token }}" LEAD
                   "{% elif m.role == 'user' %}{{ ' [INST] ' ~ ns.lead ~ m.content ~ ' [/INST]' }}{% set ns.lead = '' %}"
                   "{% else %}{{ ' ' ~ m.content ~ eos_token }}{% endif %}{% endfor %}"},
    {"mistral-v3", "{{ bos_token }}" LEAD
                   "{% elif m.role == 'user' %}{{ '[INST] ' ~ ns.lead ~ m.content ~ '[/INST]' }}{% set ns.lead = '' %}"
                   "{% else %}{{ ' ' ~ m.content | trim ~ eos_token }}{% endif %}{% endfor %}"},
    {"mistral-v7", "{{ bos_token }}{% for m in messages %}"
                   "{% if m.role == 'system' %}{{ '[SYSTEM_PROMPT] ' ~ m.content ~ '[/SYSTEM_PROMPT]' }}"
                   "{% elif m.role == 'user' %}{{ '[INST] ' ~ m.content ~ '[/INST]' }}"
                   "{% else %}{{ ' ' ~ m.content ~ eos_token }}{% endif %}{% endfor %}"},
    {"zephyr", "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\\n' ~ m.content ~ eos_token ~ '\\n' }}{% endfor %}"
               "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"},
    {"vicuna", "{% if messages[0].role != 'system' %}"
               "{{ \"A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
               "answers to the user's questions. \" }}{% endif %}"
               "{% for m in messages %}{% if m.role == 'system' %}{{ m.content | trim ~ ' ' }}"
               "{% elif m.role == 'user' %}{{ 'USER: ' ~ m.content | trim ~ ' ' }}"
               "{% else %}{{ 'ASSISTANT: ' ~ m.content | trim ~ eos_token }}{% endif %}{% endfor %}"
               "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"},
    {"alpaca", "{% if messages[0].role != 'system' %}"
               "{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\\n\\n' }}{% endif %}"
               "{% for m in messages %}{% if m.role == 'system' %}{{ m.content | trim ~ '\\n\\n' }}"
               "{% elif m.role == 'user' %}{{ '### Instruction:\\n' ~ m.content | trim ~ '\\n\\n' }}"
               "{% else %}{{ '### Response:\\n' ~ m.content | trim ~ eos_token ~ '\\n\\n' }}{% endif %}{% endfor %}"
               "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"},
    {"gemma", "{{ bos_token }}" LEAD
              "{% else %}{{ '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\\n' ~ ns.lead ~ m.content | trim ~ '<end_of_turn>\\n' }}"
              "{% set ns.lead = '' %}{% endif %}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"},
    {"phi3", "{% for m in messages %}{{ '<|' ~ m.role ~ '|>\\n' ~ m.content ~ '<|end|>\\n' }}{% endfor %}"
             "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"},
};

const char chat_template_names[] = "chatml, llama2, llama3, mistral-v1, mistral-v3, mistral-v7, zephyr, vicuna, alpaca, gemma, phi3";

const char *chat_template_known(const char *name)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0)
            return known[i].source;
    return NULL;
}

void chat_template_choices(const struct tokenizer *tokenizer, char choices[1024])
{
    const char *name;
    size_t n = 0, room = 1024 - sizeof chat_template_names;
    for (size_t i = 0; (name = tokenizer_chat_template_name(tokenizer, i)) && n + strlen(name) + 2 < room; i++)
        n += (size_t)snprintf(choices + n, room - n, "%s, ", name);
    snprintf(choices + n, 1024 - n, "%s", chat_template_names);
}

enum status chat_template_first(const struct tokenizer *tokenizer, struct err *err)
{
    char choices[1024];
    if (tokenizer_chat_template(tokenizer) || !tokenizer_chat_template_name(tokenizer, 0))
        return OK;
    chat_template_choices(tokenizer, choices);
    return err_set(err, ERR_INPUT, "the model has chat templates with names and none that is the default; choose one (--chat-template, chat_template) of %s", choices);
}

enum status chat_template_read(const char *name_or_path, const struct tokenizer *tokenizer, char **source, struct err *err)
{
    size_t n;
    char choices[1024];
    const char *own = tokenizer_named_chat_template(tokenizer, name_or_path), *of_name = own ? own : chat_template_known(name_or_path);
    *source = of_name ? strdup(of_name) : NULL;
    if (of_name)
        return *source ? OK : err_set(err, ERR_MEMORY, "out of memory for a chat template");
    if (file_read(name_or_path, 1 << 20, source, &n, err) != OK) {
        chat_template_choices(tokenizer, choices);
        return err_prefix(err, ERR_INPUT, "the chat template is no file and none of %s", choices);
    }
    if (!utf8_is_name(*source, n)) {
        free(*source);
        *source = NULL;
        return err_set(err, ERR_INPUT, "%s: is no UTF-8 text", name_or_path);
    }
    return OK;
}

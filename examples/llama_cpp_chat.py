"""Asks a model that veneer wrote, through llama-cpp-python (pip install llama-cpp-python):

    python examples/llama_cpp_chat.py out/model.gguf
    python examples/llama_cpp_chat.py out/model.gguf "Name three colours."
    python examples/llama_cpp_chat.py out/base.gguf --lora out/adapter.gguf    # base and adapter apart: docs/interop.md

A model with a chat template is asked in its form; one without continues the text."""
import argparse

from llama_cpp import Llama

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a .gguf file")
parser.add_argument("prompt", nargs="?", default="What is the capital of France?")
parser.add_argument("--lora", help="an adapter.gguf of ./convert --no-merge")
parser.add_argument("-n", type=int, default=128, help="tokens to make at most (128)")
parser.add_argument("--temperature", type=float, default=0.0, help="0: always the likeliest token (0)")
options = parser.parse_args()

llama = Llama(model_path=options.model, lora_path=options.lora, n_ctx=0, verbose=False)  # n_ctx 0: the context the model was trained with
if "tokenizer.chat_template" in llama.metadata:
    turns = [{"role": "user", "content": options.prompt}]
    answer = llama.create_chat_completion(turns, max_tokens=options.n, temperature=options.temperature)
    print(answer["choices"][0]["message"]["content"].strip())
else:
    answer = llama.create_completion(options.prompt, max_tokens=options.n, temperature=options.temperature)
    print(options.prompt + answer["choices"][0]["text"])

"""llama.cpp's own OpenAI-compatible server on a port of this machine, for the tests of the HTTP judge.

usage: openai_server.py MODEL.gguf PORT

Needs the package xllamacpp, which brings llama.cpp. It runs until it is ended, also by the end of the program that started it.
"""
import os
import sys
import time

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.n_parallel, params.n_ctx, params.warmup = 1, 8192, False
# What is kept from earlier prompts changes the next answer by rounding; the tests compare answers.
params.cache_prompt = False
# Several threads would wait for each other in a loop, which takes the time of the tests beside this one.
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(1)

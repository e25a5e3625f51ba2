// Package comfy is the vocabulary of the ComfyUI protocol: graphs, frames, outputs, history and job entries and
// error bodies. It encodes and decodes and does nothing else. What is a person's own JSON stays as it came, byte
// for byte; numbers never pass through a float.
package comfy

package backend_test

import (
	"testing"

	"github.com/ahelme/comfyume/internal/backend"
)

func TestBrokenGPU(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported": "device-side assert triggered",
		"RuntimeError: CUDA error: an illegal memory access was encountered":                            "an illegal memory access was encountered",
		"torch.AcceleratorError: CUDA error: unspecified launch failure\n":                              "unspecified launch failure",
		"!!! Exception during processing !!! HIP error: an illegal memory access was encountered":       "an illegal memory access was encountered",
		"first line\nRuntimeError: CUDA error: misaligned address":                                      "misaligned address",
		"CUDA error: out of memory": "",
		"CUDA error: no kernel image is available for execution on the device":  "",
		"CUDA error: invalid device ordinal":                                    "",
		"ValueError: a device-side assert triggered is what this picture shows": "",
		"mat1 and mat2 shapes cannot be multiplied (77x768 and 2048x640)":       "",
		"": "",
	} {
		if got, ok := backend.BrokenGPU(text); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %t; want %q", text, got, ok, want)
		}
	}
}

package media_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/ahelme/comfyume/internal/sim/media"
)

func TestAudioRoundTrip(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for _, length := range []int{1, 2, 3, 4096, 4097, 9000, 600_000} {
		for channels := 1; channels <= 2; channels++ {
			in := &media.Sound{Rate: 44100}
			for c := range channels {
				samples := make([]float32, length)
				for i := range samples {
					switch {
					case length == 9000 && c == 1:
						samples[i] = rng.Float32()*2 - 1 // noise: kept as it is
					case c == 0:
						samples[i] = float32(math.Sin(float64(i) / 20))
					}
				}
				in.Channels = append(in.Channels, samples)
			}
			for name, file := range map[string][]byte{"flac": media.FLAC(in, []media.Text{{Key: "prompt", Value: "{}"}}), "wav": media.WAV(in)} {
				out, err := media.DecodeAudio(file)
				if err != nil {
					t.Fatalf("%s of %d samples: %v", name, length, err)
				}
				if out.Rate != in.Rate || len(out.Channels) != channels || len(out.Channels[0]) != length {
					t.Fatalf("%s of %d samples: %d Hz, %d channels", name, length, out.Rate, len(out.Channels))
				}
				for c := range out.Channels {
					for i, v := range out.Channels[c] {
						if math.Abs(float64(v-in.Channels[c][i])) > 1.0/32768 {
							t.Fatalf("%s of %d samples: sample %d is %v, want %v", name, length, i, v, in.Channels[c][i])
						}
					}
				}
			}
		}
	}
}

func FuzzDecodeAudio(f *testing.F) {
	s := &media.Sound{Rate: 8000, Channels: [][]float32{{0, 0.5, -0.5, 1}}}
	f.Add(media.FLAC(s, nil))
	f.Add(media.WAV(s))
	f.Fuzz(func(_ *testing.T, file []byte) {
		if s, err := media.DecodeAudio(file); err == nil && s.Rate <= 0 {
			panic("a sound without a rate")
		}
	})
}

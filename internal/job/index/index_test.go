package index_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/ahelme/comfyume/internal/job/index"
)

// TestIndex holds an index to a map through puts and deletes at random, of ids that are alike.
func TestIndex(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	id := func(n uint32) (id index.ID) {
		binary.BigEndian.PutUint32(id[12:], n%5000) // two elements may have one id
		return id
	}
	x, want := index.New(id), map[index.ID]uint32{}
	for step := range 200_000 {
		n := 1 + random.Uint32N(10_000)
		if grow := step/50_000%2 == 0; random.IntN(10) < 3 == grow {
			if _, there := want[id(n)]; x.Delete(id(n)) != there {
				t.Fatalf("step %d: %d was there: %t", step, n, there)
			}
			delete(want, id(n))
		} else {
			x.Put(n)
			want[id(n)] = n
		}
		if n := 1 + random.Uint32N(10_000); x.Get(id(n)) != want[id(n)] || x.Len() != len(want) {
			t.Fatalf("step %d: %d is %d of %d, want %d of %d", step, n, x.Get(id(n)), x.Len(), want[id(n)], len(want))
		}
	}
	for i := range want {
		if x.Get(i) != want[i] || !x.Delete(i) {
			t.Fatalf("%v is %d, want %d", i, x.Get(i), want[i])
		}
	}
	if x.Len() != 0 {
		t.Errorf("%d are left", x.Len())
	}
}

// BenchmarkIndex is one put, one look and one delete among n elements.
func BenchmarkIndex(b *testing.B) {
	for _, n := range []uint32{1_000, 1_000_000} {
		b.Run(map[uint32]string{1_000: "n=1000", 1_000_000: "n=1000000"}[n], func(b *testing.B) {
			id := func(n uint32) (id index.ID) {
				binary.BigEndian.PutUint32(id[12:], n)
				return id
			}
			x := index.New(id)
			for i := range n {
				x.Put(i + 1)
			}
			b.ReportAllocs()
			for i := uint32(0); b.Loop(); i++ {
				x.Put(n + 1 + i)
				if x.Get(id(n+1+i)) == 0 || !x.Delete(id(1+i)) {
					b.Fatal("it is not there")
				}
			}
		})
	}
}

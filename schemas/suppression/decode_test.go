package suppression

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
	"time"
)

// FuzzDecode fixes the checksum, so that what stands behind it is reached.
func FuzzDecode(f *testing.F) {
	lists := map[string][][keySize]byte{"": {{1}, {2}}, "shop": {{3}}}
	var b bytes.Buffer
	if err := encode(&b, 1, time.Unix(0, 0), lists); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("CARSUPP\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > checksumSize {
			body := data[:len(data)-checksumSize]
			data = binary.LittleEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))
		}
		s, err := decode(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("decode gives %v, want ErrMalformed", err)
			}
			return
		}
		s.Contains("shop", "00000000000000000000000000000000")
		if s.Len() > len(data)/keySize {
			t.Fatalf("%d entries in %d bytes", s.Len(), len(data))
		}
	})
}

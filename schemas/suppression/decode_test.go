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
	list := &List{lists: map[string][]rawKey{"": {{1}, {2}}, "shop": {{3}}}, released: []release{{rawKey{4}, 5}, {rawKey{5}, 6}}}
	var b bytes.Buffer
	if err := list.encode(&b, 1, time.Unix(0, 0)); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("CARSUPP\x02"))
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
		s.Released("00000000000000000000000000000000")
		if s.Len() > len(data)/keySize {
			t.Fatalf("%d entries in %d bytes", s.Len(), len(data))
		}
	})
}

// FuzzDelta fixes the checksum of the first frame.
func FuzzDelta(f *testing.F) {
	frame, _, err := encodeFrame([]Change{
		{Key: "00000000000000000000000000000001", Suppressed: true, At: time.Unix(1, 0)},
		{Tenant: "shop", Key: "00000000000000000000000000000002", At: time.Unix(2, 0)},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add(append(bytes.Clone(frame), frame...))
	f.Add(frame[:len(frame)-3])
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Clone(data)
		if len(data) > frameHeaderSize {
			if n := int(binary.LittleEndian.Uint32(data)); n <= len(data)-frameHeaderSize {
				binary.LittleEndian.PutUint32(data[4:], crc32.Checksum(data[frameHeaderSize:frameHeaderSize+n], castagnoli))
			}
		}
		changes, n, err := decodeFrames(bytes.NewReader(data))
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("decodeFrames gives %v, want ErrMalformed", err)
		}
		if n > int64(len(data)) || len(changes)*changeSize > len(data) {
			t.Fatalf("%d changes in %d of %d bytes", len(changes), n, len(data))
		}
		if len(changes) == 0 {
			return
		}
		again, _, err := encodeFrame(changes)
		if err != nil {
			t.Fatal(err)
		}
		back, _, err := decodeFrames(bytes.NewReader(again))
		if err != nil || len(back) != len(changes) || back[len(back)-1] != changes[len(back)-1] {
			t.Fatalf("written again, %d changes are %d (%v)", len(changes), len(back), err)
		}
	})
}

package bucket

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the protocol's ETag, not a defence
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/ahelme/comfyume/internal/fault"
)

// partSize is how much of a large object is sent, and kept in memory, at once. All parts but the last are of one size:
// some servers (R2) insist. 10,000 parts make 80 GB.
const (
	partSize = 8 << 20
	maxParts = 10_000
)

// Sum is what Put learned of the bytes it stored.
type Sum struct {
	Size   int64
	SHA256 [32]byte
}

// Put stores what r gives under key, which holds the old bytes, or nothing, until all of it is there. It returns when the
// server has it, and what the server has was compared with what was sent: by its ETag where that is the MD5 of the bytes,
// else by reading it back. An error of r comes back as it is, and leaves the key as it was. At most 8 MiB are in memory.
func (b *Bucket) Put(ctx context.Context, key string, r io.Reader) (Sum, error) {
	u := &upload{b: b, ctx: ctx, name: b.name(key), all: sha256.New(), etags: md5.New()} //nolint:gosec // see above
	sum, err := u.run(r)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return sum, err
}

// upload is one Put.
type upload struct {
	b    *Bucket
	ctx  context.Context // of the Put
	name string
	all  hash.Hash
	size int64

	id     string // of a multipart upload
	parts  []minio.CompletePart
	etags  hash.Hash // over the parts' MD5, of which the ETag of the whole is made
	unsure bool      // an ETag was not the MD5 of what was sent
}

func (u *upload) run(r io.Reader) (_ Sum, err error) {
	data, last, release, err := u.first(r)
	defer func() {
		if err == nil { // a request that was given up may still be reading it
			release()
		}
	}()
	if err != nil {
		return Sum{}, err
	}
	if last {
		err = u.whole(data)
	} else {
		err = u.inParts(data, r)
	}
	if err != nil {
		return Sum{}, err
	}
	sum := Sum{Size: u.size}
	u.all.Sum(sum.SHA256[:0])
	if u.unsure {
		err = u.readBack(sum)
	}
	return sum, err
}

// smallSize is what is tried before a whole part's memory is taken: most outputs are pictures.
const smallSize = 512 << 10

// first reads the first part.
func (u *upload) first(r io.Reader) (data []byte, last bool, release func(), err error) {
	small := make([]byte, smallSize)
	n, last, err := u.read(r, small)
	if err != nil || last {
		return small[:n], last, func() {}, err
	}
	whole := u.b.parts.Get().(*[]byte)
	copy(*whole, small)
	m, last, err := u.read(r, (*whole)[n:])
	return (*whole)[:n+m], last, func() { u.b.parts.Put(whole) }, err
}

// read fills p from r and sums it up. last: r has ended.
func (u *upload) read(r io.Reader, p []byte) (n int, last bool, err error) {
	for idle := 0; n < len(p) && err == nil; {
		if u.ctx.Err() != nil {
			return n, false, context.Cause(u.ctx)
		}
		var m int
		m, err = r.Read(p[n:])
		n += m
		if m > 0 {
			idle = 0
		} else if idle++; idle > 100 && err == nil {
			err = io.ErrNoProgress
		}
	}
	u.all.Write(p[:n])
	u.size += int64(n)
	if err == io.EOF {
		return n, true, nil
	}
	return n, false, err
}

// whole stores an object with one request.
func (u *upload) whole(data []byte) error {
	sum := md5.Sum(data) //nolint:gosec // see above
	etag, err := u.send(data, sum, func(body io.Reader, md5, sha string) (string, error) {
		info, err := u.b.core.PutObject(u.ctx, u.b.address.Bucket, u.name, body, int64(len(data)), md5, sha,
			minio.PutObjectOptions{DisableContentSha256: true}) // frames of a streamed signature end up in some servers' objects
		return info.ETag, err
	})
	u.unsure = err == nil && etag != hex.EncodeToString(sum[:])
	return err
}

// damagedTries is how often bytes are sent that did not arrive as they were.
const damagedTries = 3

// send sends data, again when the server says that other bytes came.
func (u *upload) send(data []byte, sum [16]byte, request func(body io.Reader, md5, sha string) (string, error)) (string, error) {
	sha := "" // the signature does without where TLS protects the bytes
	if u.b.address.Plain {
		s := sha256.Sum256(data)
		sha = hex.EncodeToString(s[:])
	}
	for try := 1; ; try++ {
		etag, err := request(bytes.NewReader(data), base64.StdEncoding.EncodeToString(sum[:]), sha)
		if e, ok := errors.AsType[minio.ErrorResponse](err); ok && try < damagedTries &&
			(e.Code == "BadDigest" || e.Code == "XAmzContentSHA256Mismatch" || e.Code == "IncompleteBody") {
			u.b.log.Warn("bytes were damaged on their way to the bucket, and are sent again", "bucket", u.b.address.Bucket, "code", e.Code)
			continue
		}
		return strings.Trim(etag, `"`), u.b.trouble(u.ctx, "store an object", err)
	}
}

// inParts stores an object whose first part is data and the rest of which r gives.
func (u *upload) inParts(data []byte, r io.Reader) (err error) {
	u.id, err = u.b.core.NewMultipartUpload(u.ctx, u.b.address.Bucket, u.name, minio.PutObjectOptions{})
	if err != nil {
		return u.b.trouble(u.ctx, "begin an upload", err)
	}
	defer func() {
		if err != nil {
			u.abort()
		}
	}()
	for last := false; ; {
		if err = u.part(data); err != nil {
			return err
		}
		if last {
			return u.complete()
		}
		n := 0
		if n, last, err = u.read(r, data[:partSize]); err != nil {
			return err
		}
		if n == 0 {
			return u.complete()
		}
		data = data[:n]
	}
}

func (u *upload) part(data []byte) error {
	n := len(u.parts) + 1
	if n > maxParts {
		return fault.New(fault.Invalid, "A file of more than %d GB does not fit into a bucket.", maxParts*partSize/1_000_000_000).WithCode("bucket_too_large")
	}
	sum := md5.Sum(data) //nolint:gosec // see above
	etag, err := u.send(data, sum, func(body io.Reader, md5, sha string) (string, error) {
		p, err := u.b.core.PutObjectPart(u.ctx, u.b.address.Bucket, u.name, u.id, n, body, int64(len(data)),
			minio.PutObjectPartOptions{Md5Base64: md5, Sha256Hex: sha, DisableContentSha256: true})
		return p.ETag, err
	})
	if err != nil {
		return err
	}
	u.etags.Write(sum[:])
	u.unsure = u.unsure || etag != hex.EncodeToString(sum[:])
	u.parts = append(u.parts, minio.CompletePart{PartNumber: n, ETag: etag})
	return nil
}

func (u *upload) complete() error {
	info, err := u.b.core.CompleteMultipartUpload(u.ctx, u.b.address.Bucket, u.name, u.id, u.parts, minio.PutObjectOptions{})
	err = u.b.trouble(u.ctx, "end an upload", err)
	if errors.Is(err, ErrMissing) { // an answer was lost, and the upload had ended when it was asked again
		u.unsure = true
		return nil
	}
	want := fmt.Sprintf("%s-%d", hex.EncodeToString(u.etags.Sum(nil)), len(u.parts))
	u.unsure = u.unsure || err == nil && strings.Trim(info.ETag, `"`) != want
	return err
}

// abortWithin bounds how long the end of a failed upload is tried. Sweep finds those that stay.
const abortWithin = 10 * time.Second

func (u *upload) abort() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), abortWithin)
	defer cancel()
	if err := u.b.core.AbortMultipartUpload(ctx, u.b.address.Bucket, u.name, u.id); err != nil {
		u.b.log.Debug("parts of a failed upload stay until they are swept", "bucket", u.b.address.Bucket, "err", err)
	}
}

// readBack compares what the server has with what was sent, where its ETag does not tell.
func (u *upload) readBack(sum Sum) error {
	if !u.b.opaque.Swap(true) {
		u.b.log.Info("the bucket's ETags are no MD5 (it encrypts, or is no S3 of the common kind): what is stored is read back", "bucket", u.b.address.Bucket)
	}
	key, _ := u.b.key(u.name)
	f, err := u.b.Open(u.ctx, key)
	if errors.Is(err, ErrMissing) {
		return u.damaged(err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if n != sum.Size || !bytes.Equal(h.Sum(nil), sum.SHA256[:]) {
		if err := u.b.Delete(context.WithoutCancel(u.ctx), key); err != nil {
			u.b.log.Warn("a damaged object was not deleted", "bucket", u.b.address.Bucket, "key", key, "err", err)
		}
		return u.damaged(fmt.Errorf("it has %d bytes, SHA-256 %x", n, h.Sum(nil)))
	}
	return nil
}

func (u *upload) damaged(cause error) error {
	return fault.Wrap(fault.Unavailable, cause, "The bucket %s has other bytes than were sent to it.", u.b.address.Bucket).WithCode("bucket_damaged").
		WithRemedy("It is tried again. If it stays so, something between here and %s changes requests: use https and no proxy.", u.b.address.Endpoint)
}

package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/ahelme/comfyume/internal/fault"
)

const (
	// firstRead is what is asked for when an object is opened: most are not larger, and their connection can be used
	// again whether they are read to the end or not.
	firstRead = 1 << 20
	// skip is how far ahead a Seek may go by reading on.
	skip = 256 << 10
	// readTries is how often a body that was cut is asked for again without a byte in between.
	readTries = 4
)

// Reader reads one state of an object. What is read comes from one stream as long as reading goes straight on, whatever
// the size; a stream that was cut is taken up where it was. It is owned by one goroutine.
type Reader struct {
	b    *Bucket
	ctx  context.Context // of all its requests; ends with Close
	stop context.CancelFunc
	info Info

	at     int64 // of the next Read
	body   io.ReadCloser
	bodyAt int64 // where body is
	end    int64 // where body ends
	tries  int
}

var _ io.ReadSeekCloser = (*Reader)(nil)

// Open opens an object. ErrMissing: there is none under key. Reading it goes on when ctx has ended, until Close. An object
// that is replaced while it is read gives the old bytes as far as they were asked for (1 MiB at least), then an error of
// the code bucket_replaced.
func (b *Bucket) Open(ctx context.Context, key string) (*Reader, error) {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	unlink := context.AfterFunc(ctx, stop)
	r := &Reader{b: b, ctx: own, stop: stop, info: Info{Key: key}}
	err := r.request(0, firstRead)
	if !unlink() && err == nil { // ctx ended
		err = errors.Join(context.Cause(ctx), r.body.Close())
	}
	if err != nil {
		stop()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return r, nil
}

// Info returns what is known of the object.
func (r *Reader) Info() Info { return r.info }

// request asks for the bytes from at on, most of them at the most; 0: to the end.
func (r *Reader) request(at, most int64) error {
	o := minio.GetObjectOptions{}
	first := r.info.ETag == ""
	if !first {
		if err := o.SetMatchETag(r.info.ETag); err != nil {
			return err
		}
	}
	to := int64(0) // to the end
	if most > 0 {
		to = at + most - 1
	}
	if at > 0 || to > 0 {
		if err := o.SetRange(at, to); err != nil {
			return err
		}
	}
	body, info, header, err := r.b.core.GetObject(r.ctx, r.b.address.Bucket, r.b.name(r.info.Key), o)
	if e, ok := errors.AsType[minio.ErrorResponse](err); ok {
		switch {
		case e.StatusCode == 416 && first: // an empty object has no first byte
			return r.empty()
		case e.StatusCode == 412, e.StatusCode == 416:
			return r.replaced(err)
		}
	}
	if err != nil {
		return r.b.trouble(r.ctx, "read an object", err)
	}
	size, from := info.Size, int64(0)
	if span := header.Get("Content-Range"); span != "" {
		if from, size, err = contentRange(span); err != nil {
			return errors.Join(r.b.trouble(r.ctx, "read an object", err), body.Close())
		}
	}
	switch {
	case first:
		r.info.Size, r.info.Modified, r.info.ETag = size, info.LastModified, info.ETag
	case size != r.info.Size || info.ETag != r.info.ETag:
		return errors.Join(r.replaced(nil), body.Close())
	}
	r.body, r.bodyAt, r.end = body, from, from+info.Size
	return nil
}

// contentRange reads "bytes 0-99/1234".
func contentRange(s string) (from, size int64, err error) {
	var to int64
	if _, err := fmt.Sscanf(s, "bytes %d-%d/%d", &from, &to, &size); err != nil {
		return 0, 0, fmt.Errorf("the Content-Range %.60q can't be read: %w", s, err)
	}
	return from, size, nil
}

func (r *Reader) empty() error {
	info, err := r.b.Stat(r.ctx, r.info.Key)
	if err == nil && info.Size != 0 {
		err = fmt.Errorf("the server has %s bytes and gives none", strconv.FormatInt(info.Size, 10))
	}
	if err != nil {
		return r.b.trouble(r.ctx, "read an object", err)
	}
	r.info, r.body = info, io.NopCloser(strings.NewReader(""))
	return nil
}

func (r *Reader) replaced(cause error) error {
	return fault.Wrap(fault.Unavailable, cause, "A stored file was replaced while it was read.").WithCode("bucket_replaced").
		WithRemedy("Read it again.")
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if r.at >= r.info.Size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, err := r.try(p)
		if n > 0 {
			r.tries = 0
			return n, nil
		}
		r.drop()
		if r.ctx.Err() != nil {
			return 0, io.ErrClosedPipe
		}
		if f, ok := errors.AsType[*fault.Error](err); ok && f.Code != "bucket_unreachable" && f.Code != "bucket_busy" || r.tries == readTries {
			return 0, r.b.trouble(r.ctx, "read an object", err)
		}
		r.tries++
	}
}

// try reads once, by a new request where the body is elsewhere.
func (r *Reader) try(p []byte) (int, error) {
	if r.body != nil && r.at > r.bodyAt && r.at-r.bodyAt <= skip && r.at < r.end {
		n, err := io.CopyN(io.Discard, r.timed(), r.at-r.bodyAt)
		r.bodyAt += n
		if err != nil {
			return 0, err
		}
	}
	if r.body == nil || r.bodyAt != r.at || r.at >= r.end {
		r.drop()
		if err := r.request(r.at, 0); err != nil {
			return 0, err
		}
		if r.bodyAt > r.at {
			return 0, fmt.Errorf("the server gives bytes from %d on and was asked from %d", r.bodyAt, r.at)
		}
		if skipped := r.at - r.bodyAt; skipped > 0 { // a server that knows no ranges gives all
			n, err := io.CopyN(io.Discard, r.timed(), skipped)
			r.bodyAt += n
			if err != nil {
				return 0, err
			}
		}
	}
	n, err := r.timed().Read(p[:min(int64(len(p)), r.end-r.bodyAt)])
	r.bodyAt += int64(n)
	r.at += int64(n)
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// timed is the body, closed when it gives nothing for too long.
func (r *Reader) timed() io.Reader { return timed{r.body, r.b.idle} }

type timed struct {
	body io.ReadCloser
	idle time.Duration
}

func (t timed) Read(p []byte) (int, error) {
	timer := time.AfterFunc(t.idle, func() { _ = t.body.Close() }) // its Read then ends with an error
	n, err := t.body.Read(p)
	timer.Stop()
	return n, err
}

// drop gives up the body, so that the next Read asks for a new one.
func (r *Reader) drop() {
	if r.body != nil {
		_ = r.body.Close() // it was read as far as it was wanted
		r.body = nil
	}
}

// Seek implements io.Seeker. It asks nothing of the server.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.info.Size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning of an object")
	}
	r.at = offset
	return offset, nil
}

// Close ends all requests.
func (r *Reader) Close() error {
	r.drop()
	r.stop()
	return nil
}

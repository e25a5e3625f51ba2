// Package redis keeps a studio's data in Redis 7, for several servers of one studio: the stores, the lease of the one
// that leads, and the relay of what happens. All keys are in one slot ({space}:name), so that a cluster serves it too.
//
// Redis is asked for what it promises, no more: with appendfsync always a change is on its disk before it is
// acknowledged; with everysec a crash of Redis may take back the last second. DB.Check says which it is.
package redis

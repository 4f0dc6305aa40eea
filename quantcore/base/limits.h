/* Every bound on untrusted input, in one table. A model file, a data file and a checkpoint are
 * untrusted: a size they declare is a claim, compared with these and with the bytes that remain. */
#ifndef MPQ_BASE_LIMITS_H
#define MPQ_BASE_LIMITS_H

#include <stddef.h>
#include <stdint.h>

#define MPQ_MAX_RANK 8

#define MPQ_LIMIT_MODEL_BYTES    ((size_t)2 << 30)   /* protobuf's own bound on one message    */
#define MPQ_LIMIT_TENSOR_BYTES   ((size_t)2 << 30)   /* bytes of one tensor                    */
#define MPQ_LIMIT_DATA_BYTES     ((size_t)16 << 30)  /* bytes of one array of a data file     */
#define MPQ_LIMIT_PIXELS         ((size_t)1 << 27)   /* width times height of a picture        */
#define MPQ_LIMIT_EXTERNAL_BYTES ((size_t)16 << 30)  /* external data of one model          */
#define MPQ_LIMIT_DEPTH          64                  /* nesting of protobuf messages           */
#define MPQ_LIMIT_NODES          1000000u            /* nodes, and likewise values             */
#define MPQ_LIMIT_CALL_BYTES     ((size_t)128 << 20) /* nodes once functions are written out  */
#define MPQ_LIMIT_ITERATIONS     65536               /* of one Loop or Scan that is written out */
#define MPQ_LIMIT_MESSAGES       16000000u           /* protobuf messages of any kind in a file */
#define MPQ_LIMIT_ATTRS          256u                /* attributes of one node                 */
#define MPQ_LIMIT_NAME_BYTES     4096u               /* one name                               */

#endif

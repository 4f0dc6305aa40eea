/* mpq_real is the type the kernels compute in: float in the product, double in the twin build
 * that the gradient checks use, where finite differences are sharp. An ONNX tensor of element type
 * FLOAT is held in memory as mpq_real. */
#ifndef MPQ_BASE_REAL_H
#define MPQ_BASE_REAL_H

#ifdef MPQ_REAL_DOUBLE
typedef double mpq_real;
#define MPQ_REAL(x) x
#else
typedef float mpq_real;
#define MPQ_REAL(x) x##f
#endif

#endif
